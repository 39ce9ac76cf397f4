"""The agent's service for everybody else: HTTP on a Unix socket, and for members over TLS."""
