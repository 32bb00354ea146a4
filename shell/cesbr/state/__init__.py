"""What the shell saves between runs: selections and unfinished restores."""
