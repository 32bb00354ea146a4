"""The command line: options, help and manual pages."""
