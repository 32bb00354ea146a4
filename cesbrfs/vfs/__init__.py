"""What a backup looks like as a file system."""
