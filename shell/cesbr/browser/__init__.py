"""A full-screen browser of the backups.

`model` is what is shown and what a key does, without I/O; `draw` makes lines of it. `reader` reads
the backups in trio's thread, and `screen` shows it all with prompt_toolkit in the front thread.
"""
