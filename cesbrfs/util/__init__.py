"""Helpers without knowledge of restic, FUSE or Cloudogu."""
