"""A real etcd cluster of three lab servers, with TLS on every connection and users.

What enters: a stage that has `etcd1` to `etcd3`. What leaves: a cluster that answers, and on every
data server (and the witness) what a client needs, in `/etc/everup-lab/etcd`: `ca.pem`,
`client.pem`, `client.key`, `endpoints`, and `password` of the user `everup`, who may read and write
keys below `/everup/` alone. The members' data lie on their own disks, so that a power cut takes
what etcd had not synced.
"""

import ipaddress
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from everup.errors import DeadlinePassed
from everup.lab.lab import Lab
from everup.lab.layout import DATA_SERVERS, server_plan
from everup.lab.server import Server

MEMBERS = ("etcd1", "etcd2", "etcd3")
UNIT = "lab-etcd"
CLIENT_PORT = 2379
PEER_PORT = 2380
DIRECTORY = "/etc/everup-lab/etcd"
USER = "everup"
PREFIX = "/everup/"
_DATA = "/srv/etcd"
_READY_S = 60.0
_VALID_DAYS = 3650

_UNIT_TEXT = """\
[Unit]
Description=etcd of the lab
After=network.target

[Service]
Type=notify
ExecStart=/usr/bin/etcd {words}
Restart=always
RestartSec=500ms
TimeoutStartSec=infinity

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True)
class Signed:
    """A certificate with its key, both PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """The cluster's own certificate authority; it lives as long as the setting up."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "etcd of the lab")])
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        builder = self._builder(self._name, self._key).add_extension(constraints, critical=True)
        self._certificate = builder.sign(self._key, hashes.SHA256())

    @property
    def certificate(self) -> bytes:
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def sign(self, addresses: list[str], names: list[str]) -> Signed:
        """For servers and clients alike.

        Without a common name: etcd takes one for a user, and then refuses its own JSON gateway,
        which shows the member's certificate.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = self._builder(x509.Name([]), key).add_extension(
            x509.ExtendedKeyUsage(both), critical=False
        )
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        alternatives += [x509.IPAddress(ipaddress.ip_address(each)) for each in addresses]
        alternative = x509.SubjectAlternativeName(alternatives)
        builder = builder.add_extension(alternative, critical=True)
        certificate = builder.sign(self._key, hashes.SHA256())
        return Signed(
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=_VALID_DAYS))
        )


class Cluster:
    """The etcd cluster of one lab."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    @property
    def wanted(self) -> bool:
        """Whether the lab has the machines for it."""
        return all(name in self._lab.server_names for name in MEMBERS)

    def build(self) -> None:
        """Certificates, three members, users; returns when the cluster answers."""
        authority = Authority()
        for name in MEMBERS:
            address = server_plan(name).address("management")
            signed = authority.sign([address, "127.0.0.1"], [name, "localhost"])
            self._write(name, authority, signed)
            self._member(self._lab.server(name))
        self._wait_healthy()
        password = secrets.token_urlsafe(24)
        self._users(password)
        clients = [n for n in self._lab.server_names if n in (*DATA_SERVERS, "witness")]
        for name in clients:
            self._write(name, authority, authority.sign([], [name]))
            self._put(name, "password", password.encode())
        for name in (*MEMBERS, *clients):  # as on servers that were set up days ago
            self._lab.server(name).disk.sync()

    def _write(self, name: str, authority: Authority, signed: Signed) -> None:
        for file, content in (
            ("ca.pem", authority.certificate),
            ("client.pem", signed.certificate),
            ("client.key", signed.key),
            ("endpoints", f"{endpoints()}\n".encode()),
        ):
            self._put(name, file, content)

    def _put(self, name: str, file: str, content: bytes) -> None:
        server = self._lab.server(name)
        server.run(["install", "-d", "-m", "0700", DIRECTORY])
        path = f"{DIRECTORY}/{file}"
        server.run(["install", "-m", "0600", "/dev/stdin", path], stdin=content.decode())

    def _member(self, server: Server) -> None:
        words = " ".join(_member_words(server.name))
        unit = f"/etc/systemd/system/{UNIT}.service"
        server.run(["tee", unit], stdin=_UNIT_TEXT.format(words=words))
        server.run(["systemctl", "daemon-reload"])
        # A first member is only ready when a second one is there.
        server.run(["systemctl", "enable", "--now", "--no-block", UNIT])

    def _wait_healthy(self) -> None:
        end = time.monotonic() + _READY_S
        server = self._lab.server(MEMBERS[0])
        while server.run(etcdctl("endpoint", "health", "--cluster"), check=False).exit_code != 0:
            if time.monotonic() > end:
                raise DeadlinePassed(
                    f"The etcd cluster was not healthy after {_READY_S:.0f} s.",
                    remedy=f"everup lab exec etcd1 -- journalctl -u {UNIT}",
                )
            time.sleep(0.2)

    def _users(self, password: str) -> None:
        """`root` is etcd's own name for who may do everything; its password is forgotten here."""
        server = self._lab.server(MEMBERS[0])
        for user, secret in (("root", secrets.token_urlsafe(24)), (USER, password)):
            server.run(etcdctl("user", "add", user, "--interactive=false"), stdin=f"{secret}\n")
        server.run(etcdctl("user", "grant-role", "root", "root"))
        server.run(etcdctl("role", "add", USER))
        grant = ("role", "grant-permission", USER, "readwrite", PREFIX, "--prefix")
        server.run(etcdctl(*grant))
        server.run(etcdctl("user", "grant-role", USER, USER))
        server.run(etcdctl("auth", "enable"))


def endpoints() -> str:
    """The members' client addresses, as etcdctl takes them."""
    hosts = [server_plan(name).address("management") for name in MEMBERS]
    return ",".join(f"https://{host}:{CLIENT_PORT}" for host in hosts)


def etcdctl(*words: str) -> list[str]:
    """The command on a server that has the client's files."""
    return [
        *("env", "ETCDCTL_API=3", "etcdctl", f"--endpoints={endpoints()}"),
        *(f"--cacert={DIRECTORY}/ca.pem", f"--cert={DIRECTORY}/client.pem"),
        *(f"--key={DIRECTORY}/client.key", "--command-timeout=5s", *words),
    ]


def _member_words(name: str) -> list[str]:
    host = server_plan(name).address("management")
    peers = [
        f"{each}=https://{server_plan(each).address('management')}:{PEER_PORT}" for each in MEMBERS
    ]
    files = {"trusted-ca-file": "ca.pem", "cert-file": "client.pem", "key-file": "client.key"}
    words = [
        *("--name", name, "--data-dir", _DATA),
        *("--listen-client-urls", f"https://{host}:{CLIENT_PORT},https://127.0.0.1:{CLIENT_PORT}"),
        *("--advertise-client-urls", f"https://{host}:{CLIENT_PORT}"),
        *("--listen-peer-urls", f"https://{host}:{PEER_PORT}"),
        *("--initial-advertise-peer-urls", f"https://{host}:{PEER_PORT}"),
        *("--initial-cluster", ",".join(peers), "--initial-cluster-state", "new"),
        *("--initial-cluster-token", "everup-lab", "--client-cert-auth", "--peer-client-cert-auth"),
        *("--log-outputs", "stderr"),
    ]
    for option, file in files.items():
        words += [f"--{option}", f"{DIRECTORY}/{file}", f"--peer-{option}", f"{DIRECTORY}/{file}"]
    return words
