"""A restic repository, read-only. Independent of backups, dogus, FUSE and the shell."""
