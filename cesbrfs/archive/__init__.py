"""Write paths of backups to tar and zip archives."""
