"""The errors of a run that are not bugs."""


class ConfigurationError(ValueError):
    """Settings that cannot work. The message is one line that starts with the path of the setting in the configuration."""


class DivergedError(RuntimeError):
    """A loss that is not finite. The message is one line that names the step and the first layer with such a value."""
