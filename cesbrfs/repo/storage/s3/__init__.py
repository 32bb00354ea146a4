"""Read-only S3 storage."""
