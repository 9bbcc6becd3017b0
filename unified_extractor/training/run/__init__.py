"""One run: its folder, its checks, its record."""
