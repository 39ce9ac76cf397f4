"""UDP echo on the public address: says which server answers. An application as Everup sees it.

What enters: datagrams. What leaves: the same bytes and this server's name behind them. Bound with
IP_FREEBIND, so that it may start before the address is there. Standard library only: it stands for
an application that starts at once.
"""

import socket
import sys

_IP_FREEBIND = 15


def serve(address: str, port: int) -> None:
    """Answer until killed."""
    name = socket.gethostname().encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        opened.bind((address, port))
        while True:
            data, peer = opened.recvfrom(512)
            try:
                opened.sendto(data + b" " + name, peer)
            except OSError:
                continue  # the address is not (or no longer) ours: nobody gets an answer


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
