"""Search all backups, list the versions of a file, compare backups, measure disk usage.

`find`, `versions`, `diff` and `usage` build on `cesbrfs.vfs.timeline`, which walks many backups at
once; `live` compares a backup with the instance.
"""
