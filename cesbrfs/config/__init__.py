"""Settings from flags, the environment, configuration files and the registry."""
