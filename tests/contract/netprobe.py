"""Run inside a namespace: ask an address for a sign of life, or write down who sends from it.

`ask ADDRESS` prints "icmp arp tcp" words for what answers within half a second.
`watch INTERFACE ADDRESS SECONDS` prints one line per frame that claims ADDRESS: time and hardware
address of the sender.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from ipaddress import ip_address

ETH_ALL = 3


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def icmp_answers(address: str) -> bool:
    six = ":" in address
    family = socket.AF_INET6 if six else socket.AF_INET
    protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
    ask, answer = (128, 129) if six else (8, 0)
    ident = os.getpid() & 0xFFFF
    body = struct.pack(">BBHHH", ask, 0, 0, ident, 1)
    body = body[:2] + struct.pack(">H", checksum(body)) + body[4:]
    with socket.socket(family, socket.SOCK_RAW, protocol) as raw:
        raw.settimeout(0.5)
        try:
            raw.sendto(body, (address, 0))
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                data, sender = raw.recvfrom(2048)
                data = data if six else data[20:]
                if sender[0] == address and data[0] == answer and data[4:6] == body[4:6]:
                    return True
        except OSError:
            pass
    return False


def tcp_answers(address: str) -> bool:
    """A refusal (RST) is an answer too."""
    try:
        with socket.create_connection((address, 9), timeout=0.5):
            return True
    except ConnectionRefusedError:
        return True
    except OSError:
        return False


def claims(frame: bytes, packed: bytes) -> bool:
    """Whether a frame says that its sender has the address."""
    kind = frame[12:14]
    if kind == b"\x08\x00":
        return frame[26:30] == packed
    if kind == b"\x08\x06":
        return frame[28:32] == packed
    if kind == b"\x86\xdd":
        # source, or the target of a neighbour advertisement
        return frame[22:38] == packed or (
            frame[20] == 58 and frame[54] == 136 and frame[62:78] == packed
        )
    return False


def watch(interface: str, address: str, seconds: float) -> None:
    packed = ip_address(address).packed
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_ALL)) as raw:
        raw.bind((interface, ETH_ALL))
        end = time.monotonic() + seconds
        print("watching", flush=True)
        while (left := end - time.monotonic()) > 0:
            raw.settimeout(left)
            try:
                frame = raw.recv(4096)
            except TimeoutError:
                return
            if claims(frame, packed):
                print(f"{time.monotonic():.4f} {frame[6:12].hex(':')}", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "ask":
        found = [
            word
            for word, answers in (("icmp", icmp_answers), ("tcp", tcp_answers))
            if answers(sys.argv[2])
        ]
        print(" ".join(found))
    else:
        watch(sys.argv[2], sys.argv[3], float(sys.argv[4]))
