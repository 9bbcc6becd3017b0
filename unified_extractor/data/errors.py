"""What a data module raises when the data on disk break a rule."""


class DataError(ValueError):
    """Data that cannot be used. One line that names the path and the rule it breaks."""
