"""What can be wrong with a run."""


class ConfigurationError(ValueError):
    """Settings that cannot work. One line that starts with the path of the setting in the configuration."""


class DivergedError(RuntimeError):
    """A loss that is not finite. One line that says at which step, and where it first went wrong."""
