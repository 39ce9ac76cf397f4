"""Why another machine could not be asked, in words, and what to do about it.

What enters: the address that was tried and the error of socket or TLS. What leaves: a NotConnected
(exit code 4). Called by `cli.client`; no number of an operating system's error reaches a person.
"""

import errno
import socket
import ssl

from everup.errors import NotConnected

_NO_WAY = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN)


def not_reached(host: str, port: int, error: Exception) -> NotConnected:
    """The error that a person reads."""
    sentence, remedy, code = _words(host, port, error)
    return NotConnected(sentence, remedy=remedy, code=code)


def _words(host: str, port: int, error: Exception) -> tuple[str, str, str]:
    if isinstance(error, socket.gaierror):
        return (
            f"the name {host!r} is not known here",
            "use a member's name or its management address: https://ADDRESS:7573",
            "unknown-host",
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"{host}:{port} is no member of this group: {error.verify_message}",
            "everup status shows the members; check the address",
            "foreign-server",
        )
    if isinstance(error, ssl.SSLError):
        return (
            f"{host}:{port} does not take this server for a member of its group",
            "check the address and the port: members answer each other on 7573",
            "foreign-server",
        )
    remedy = f"check that {host} runs and that no network or firewall stands between"
    if isinstance(error, TimeoutError):
        return f"{host}:{port} does not answer: no answer in time", remedy, "not-connected"
    if isinstance(error, ConnectionRefusedError):
        return (
            f"{host} is there, but nothing listens on its port {port}",
            f"on {host}: systemctl status everup-agent; members answer each other on 7573",
            "not-connected",
        )
    if isinstance(error, OSError) and error.errno in _NO_WAY:
        return f"there is no way to {host} from here", remedy, "not-connected"
    if isinstance(error, ConnectionError):
        return f"{host}:{port} broke the connection off", remedy, "not-connected"
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"{host}:{port} does not answer: {reason}", remedy, "not-connected"
