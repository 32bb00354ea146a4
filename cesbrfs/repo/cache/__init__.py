"""Caches on disk: encrypted files, index tables, directories and blobs."""
