"""One run of ``fit``: its checks, its folder, its checkpoints and its record."""
