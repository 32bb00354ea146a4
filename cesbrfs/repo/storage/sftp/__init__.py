"""Read-only SFTP storage over the system's ssh."""
