"""Cloudogu's world: dogus, the registry, the instance; knows no repository format."""
