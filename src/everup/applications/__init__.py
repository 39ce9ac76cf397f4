"""The applications that follow the active role."""
