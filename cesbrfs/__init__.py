"""Reads the backups of a Cloudogu EcoSystem: library and mount program."""

__version__ = "0.1.0"
