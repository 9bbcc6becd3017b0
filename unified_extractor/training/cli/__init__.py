"""The training commands of ``uniex``, their parser and their error messages."""
