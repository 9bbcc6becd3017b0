"""The Lightning callbacks of a run."""
