"""Present backups as a virtual file system."""
