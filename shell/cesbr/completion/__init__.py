"""Tab completion, at the prompt and in bash, zsh and fish."""
