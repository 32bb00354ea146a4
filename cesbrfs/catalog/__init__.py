"""Snapshots <-> backups, dogus, points of data: the only part that speaks both languages."""
