"""Map restic snapshots to CES backups, dogus and points of data."""
