"""Reads the backups of a Cloudogu EcoSystem: library and mount program."""
