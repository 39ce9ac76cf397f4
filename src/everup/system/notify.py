"""Tell systemd how a process is: READY, STATUS, WATCHDOG; leave descriptors with it, get them back.

What enters: lines of state. What leaves: a datagram to $NOTIFY_SOCKET, when there is one.
"""

import os
import socket

_FIRST_PASSED = 3


def notify(state: str, *descriptors: int) -> bool:
    """Send `state` (for example "READY=1"); False when nobody listens. Never raises."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.settimeout(1)
            channel.connect(address)
            socket.send_fds(channel, [state.encode()], descriptors)
    except OSError:
        return False
    return True


def passed_descriptors() -> dict[str, int]:
    """What systemd kept of an earlier process of this unit (FDSTORE=1), by name; taken once."""
    pid = os.environ.pop("LISTEN_PID", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    count = int(os.environ.pop("LISTEN_FDS", "0"))
    if pid != str(os.getpid()):
        return {}
    found = {}
    for place, name in enumerate(names[:count]):
        os.set_inheritable(_FIRST_PASSED + place, False)
        found[name] = _FIRST_PASSED + place
    return found
