"""The page for people: an unprivileged client of the agent's socket; nothing depends on it."""
