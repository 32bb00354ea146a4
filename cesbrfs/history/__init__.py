"""Search all backups, list the versions of a file, compare backups, measure disk usage.

`directory_index` caches the directories of all backups in compact form, and `timeline` walks many
backups at once with it. `find`, `versions`, `diff` and `usage` build on these; `live` compares a
backup with the instance.
"""
