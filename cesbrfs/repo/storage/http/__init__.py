"""The HTTP client and its TLS settings, shared by S3 and REST."""
