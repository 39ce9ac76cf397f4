"""Watching a cable: every frame that a server's cable carries, seen from the lab's end.

What enters: the lab, a server and a network. What leaves: decoded headers with their moment. Used
by tests that must show what did *not* leave a server.
"""

import socket
import struct
import threading
import time
from dataclasses import dataclass

from everup.lab.base import Base
from everup.lab.commands import LabError
from everup.lab.layout import server_plan
from everup.lab.namespaces import join_network

_ETH_P_ALL = 0x0003
_ARP, _IPV4 = 0x0806, 0x0800
_TCP, _UDP = 6, 17
_FIN, _RST = 0x01, 0x04
_POLL_S = 0.05


@dataclass(frozen=True)
class Frame:
    """What matters of one frame. `outgoing`: it left the server. `at`: monotonic seconds."""

    at: float
    outgoing: bool
    protocol: str
    source: str
    target: str
    source_port: int = 0
    target_port: int = 0
    tcp_flags: int = 0

    @property
    def says_goodbye(self) -> bool:
        return self.protocol == "tcp" and bool(self.tcp_flags & (_FIN | _RST))


class Capture:
    """Records the frames of one cable while the `with` block runs."""

    def __init__(self, base: Base, server: str, network: str) -> None:
        self.frames: list[Frame] = []
        self._base = base
        self._cable = server_plan(server).cable(network)
        self._stop = threading.Event()
        self._started = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._record, daemon=True)

    def __enter__(self) -> "Capture":
        self._thread.start()
        self._started.wait(5)
        if self._error is not None:
            raise self._error
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(2 * _POLL_S)
        self._stop.set()
        self._thread.join(5)

    def _record(self) -> None:
        try:
            join_network(self._base.holder_id)
            tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            tap.bind((self._cable, _ETH_P_ALL))
            tap.settimeout(_POLL_S)
        except (OSError, LabError) as error:
            self._error = error
            return
        finally:
            self._started.set()
        with tap:
            while not self._stop.is_set():
                self._take(tap)

    def _take(self, tap: socket.socket) -> None:
        try:
            data, address = tap.recvfrom(65_600)
        except OSError:
            return  # nothing came, or the cable went down (reported once)
        outgoing = address[2] != socket.PACKET_OUTGOING
        frame = decode(data, time.monotonic(), outgoing)
        if frame is not None:
            self.frames.append(frame)


def decode(data: bytes, at: float, outgoing: bool) -> Frame | None:
    """The headers of an Ethernet frame with ARP or IPv4; anything else is nothing."""
    kind = int.from_bytes(data[12:14], "big")
    if kind == _ARP and len(data) >= 42:
        source, target = socket.inet_ntoa(data[28:32]), socket.inet_ntoa(data[38:42])
        return Frame(at, outgoing, "arp", source, target)
    if kind != _IPV4 or len(data) < 34:
        return None
    header = 14 + (data[14] & 0x0F) * 4
    source, target = socket.inet_ntoa(data[26:30]), socket.inet_ntoa(data[30:34])
    protocol = data[23]
    if protocol == _TCP and len(data) >= header + 14:
        ports = struct.unpack_from("!HH", data, header)
        flags = data[header + 13]
        return Frame(at, outgoing, "tcp", source, target, ports[0], ports[1], flags)
    if protocol == _UDP and len(data) >= header + 4:
        ports = struct.unpack_from("!HH", data, header)
        return Frame(at, outgoing, "udp", source, target, *ports)
    return Frame(at, outgoing, f"ip-{protocol}", source, target)
