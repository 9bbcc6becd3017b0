"""The implementations of the operator, a folder or file each, by the protocol in ``base.py``. None imports another."""
