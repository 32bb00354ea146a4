"""Generic helpers, independent of restic, FUSE and CES."""
