"""The Cloudogu EcoSystem (CES): instance, dogus, registry and backup configuration."""
