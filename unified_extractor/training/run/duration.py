"""Durations in words."""


def duration(seconds: float) -> str:
    """Return seconds in words: ``0.8 s``, ``43 s``, ``12 min``, ``7 h 05 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 9.5 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
