"""``python -m cesbrfs``: mount the backups of a repository."""

import sys

from cesbrfs.fuse.cli import main

if __name__ == "__main__":
    sys.exit(main())
