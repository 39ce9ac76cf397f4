"""Tell systemd how a process is: READY, STATUS, WATCHDOG.

What enters: one line of state. What leaves: a datagram to $NOTIFY_SOCKET, when there is one.
"""

import os
import socket


def notify(state: str) -> bool:
    """Send `state` (for example "READY=1"); False when nobody listens. Never raises."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.settimeout(1)
            channel.sendto(state.encode(), address)
    except OSError:
        return False
    return True
