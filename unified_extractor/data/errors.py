"""What a data module raises when the data on disk break a rule."""


class DataError(ValueError):
    """Data that cannot be used. One line that names the path and the rule it breaks, or the ``setting`` that asks for it."""

    def __init__(self, message: str, setting: str | None = None) -> None:
        super().__init__(message)
        self.setting = setting
