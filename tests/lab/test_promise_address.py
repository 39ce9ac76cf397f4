"""Promise `single-active`: who is not active sends nothing from the public address."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.lab.ground import Ground, wait

from everup.lab.layout import NETWORKS, PUBLIC_ADDRESS, server_plan

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(900)]

DEVICE = NETWORKS["public"].device
CLIENT = server_plan("client").address("public")
BOOT_S = 60.0
WATCHED_S = 4.0

# The operating system's own configuration of the network, as an administrator once wrote it; with
# the kernel told to announce its addresses when a card comes up.
STATIC = f"""\
[Unit]
Description=The public address is this server's static address
DefaultDependencies=no
After=network-pre.target
Before=lab-network.service network.target
Wants=network-pre.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/sysctl -w net.ipv4.conf.{DEVICE}.arp_notify=1
ExecStart=/usr/sbin/ip addr add {PUBLIC_ADDRESS}/24 dev {DEVICE}
ExecStart=/usr/sbin/ip link set {DEVICE} up

[Install]
WantedBy=multi-user.target
"""

# A program that speaks from the public address and from the server's own, without end.
TALKER = """\
import socket, sys, time
while True:
    for source in sys.argv[2:]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
            try:
                line.bind((source, 0))
                line.sendto(b"from " + source.encode(), (sys.argv[1], 9900))
            except OSError:
                pass
    time.sleep(0.02)
"""

TALKER_UNIT = """\
[Unit]
Description=Speaks from the static address without end
DefaultDependencies=no
After=lab-static.service

[Service]
ExecStart=/usr/bin/python3 /root/talker.py {words}

[Install]
WantedBy=multi-user.target
"""

# Runs on the client: the source address of every frame that reaches it from the server's card.
LISTENER = """\
import socket, sys
card = bytes.fromhex(sys.argv[1].replace(":", ""))
tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
tap.bind((sys.argv[2], 3))
print("listening", flush=True)
while True:
    data = tap.recv(65536)
    kind, at = data[12:14].hex(), {"0806": 28, "0800": 26}.get(data[12:14].hex())
    if data[6:12] == card and at:
        print("arp" if kind == "0806" else "ip", socket.inet_ntoa(data[at:at + 4]), flush=True)
"""


class Listener:
    """What the client hears from one server's card on the public network."""

    def __init__(self, ground: Ground, server: str) -> None:
        self.own = server_plan(server).address("public")
        self._log: Path = ground.lab.directory / "listener.log"
        card = server_plan(server).hardware_address("public")
        words = ["python3", "-c", LISTENER, card, DEVICE]
        self._process = ground.server("client").start(words, self._log)
        wait(lambda: "listening" in self._log.read_text(), 10, "listener")

    def heard(self, source: str) -> list[str]:
        lines = self._log.read_text().split("\n")[:-1]
        return [line for line in lines if line.endswith(f" {source}")]

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


@pytest.fixture
def static_address(ground: Ground) -> Iterator[tuple[Ground, str]]:
    """The active server gets the public address into its own configuration, and a talker."""
    name = ground.active
    server, client = ground.server(name), ground.server("client")
    units = "/etc/systemd/system"
    talk = TALKER_UNIT.format(
        words=" ".join((CLIENT, PUBLIC_ADDRESS, server_plan(name).address("public")))
    )
    server.run(["tee", "/root/talker.py"], stdin=TALKER)
    server.run(["tee", f"{units}/lab-static.service"], stdin=STATIC)
    server.run(["tee", f"{units}/lab-talker.service"], stdin=talk)
    server.run(["systemctl", "daemon-reload"])
    server.run(["systemctl", "enable", "lab-static", "lab-talker"])
    server.disk.sync()
    try:
        yield ground, name
    finally:
        if not server.powered:
            ground.lab.power_on(name)
        server.run(["systemctl", "disable", "--now", "lab-talker", "lab-static"], check=False)
        server.run(["ip", "addr", "del", f"{PUBLIC_ADDRESS}/24", "dev", DEVICE], check=False)
        client.run(["ip", "neigh", "flush", "dev", DEVICE], check=False)


def test_an_old_active_with_the_address_in_its_static_configuration_is_mute(
    static_address: tuple[Ground, str],
) -> None:
    """From its first frame after the power comes back until it follows, a third machine hears it
    from its own address only. Without the kernel's rules the same machine would hear it."""
    ground, old = static_address
    new = ground.other(old)
    cut = time.monotonic()
    ground.lab.power_cut(old)
    ground.wait_answer(new, cut, 10)
    listener = Listener(ground, old)
    try:
        ground.lab.power_on(old)
        wait(lambda: listener.heard(listener.own), BOOT_S, "frame from the server's own address")
        carries = ground.run(old, "ip", "-brief", "addr", "show", "dev", DEVICE).output
        assert PUBLIC_ADDRESS in carries, "the static configuration was in effect"
        wait(lambda: ground.roles().get(old) == "passive", BOOT_S, "the old active to follow")
        time.sleep(WATCHED_S)
        assert listener.heard(PUBLIC_ADDRESS) == []
        assert not ground.answers(cut + 0.5, old)
        assert ground.answers(time.monotonic() - 1, new)

        for family in ("inet", "arp"):
            ground.run(old, "nft", "delete", "table", family, "everup")
        wait(lambda: listener.heard(PUBLIC_ADDRESS), 5, "frame without the rules")
    finally:
        listener.stop()
