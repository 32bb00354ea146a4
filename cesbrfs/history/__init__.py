"""What backups held over time: finding names in all of them, versions of a file, differences.

`memo` holds the folders of all backups in short; `timeline` walks many backups at once by it;
`finding`, `versions`, `diffing` and `sizes` answer with that, `live` compares with the instance.
"""
