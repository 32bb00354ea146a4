"""Read blobs, packs, directories and files of a repository."""
