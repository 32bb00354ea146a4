"""Reads a restic repository; knows no backup, dogu, FUSE or shell."""
