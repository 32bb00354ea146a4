"""The cmd2 application: the prompt cesbr> and its one-shot commands."""
