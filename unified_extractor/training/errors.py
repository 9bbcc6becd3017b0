"""What a run raises when its configuration cannot work."""


class ConfigurationError(ValueError):
    """A setting that cannot work. One line that begins with the setting's path in the YAML file and names the rule."""
