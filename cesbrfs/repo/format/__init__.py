"""restic's repository format.  Pure: no I/O."""
