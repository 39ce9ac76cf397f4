"""What travels between processes and servers: frames, sessions without I/O, transport."""
