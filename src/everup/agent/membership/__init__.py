"""Who belongs to the group: its own authority, tokens, joining, one settings document."""
