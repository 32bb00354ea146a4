"""Output for people: tables, progress, pager, errors."""
