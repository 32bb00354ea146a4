"""Damage of a repository in terms of backups, dogus and paths.

`examine` walks all backups; `scan` finds the damage below each distinct tree, `blob_check` that of
single blobs, and `findings` lists it by path, with the backups that still have the same path.
"""
