"""What can be wrong with a sweep."""


class SweepError(ValueError):
    """A grid, a cell or a cluster that cannot work. One line that starts with where the mistake is."""
