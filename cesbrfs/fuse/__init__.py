"""The mount: a virtual tree, served through FUSE."""
