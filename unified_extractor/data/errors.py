"""The error of data that break a rule."""


class DataError(ValueError):
    """Data that cannot be used. The message is one line that names the path and the broken rule; ``setting`` is the option
    at fault, if any."""

    def __init__(self, message: str, setting: str | None = None) -> None:
        super().__init__(message)
        self.setting = setting
