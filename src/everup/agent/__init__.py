"""The agent: observe, decide, act; the composition root of a server."""
