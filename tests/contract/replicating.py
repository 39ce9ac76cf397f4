"""Two replicators as processes over loopback, each with its own places, certificates and tree.

What enters: an empty directory. What leaves: servers that can be started, killed and compared. The
source's guard is a stand-in (`standin_guard`) that journals what a script does to its lower tree,
or the real one. The comparer shares no code with the replicator. Used by the tests of replication.
"""

import datetime
import hashlib
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from everup.errors import EverupError
from everup.places import Places
from everup.wire.local import call

GROUP_ID = "cd" * 16
HIDDEN = b".everup-orphans"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Authority:
    """A certificate authority for one test."""

    def __init__(self, name: str = "test group") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._sign(self._name, self._key, None)

    def _sign(self, subject: x509.Name, key: Any, name: str | None) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=10))
            .add_extension(x509.BasicConstraints(ca=name is None, path_length=None), True)
        )
        if name is not None:
            names = x509.SubjectAlternativeName([x509.DNSName(name)])
            builder = builder.add_extension(names, False)
        return builder.sign(self._key, hashes.SHA256())

    def equip(self, places: Places, name: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._sign(subject, key, name)
        places.ca_certificate.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        places.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        places.private_key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )


def address_of(index: int, apart: bool) -> str:
    """Loopback; `apart`: each server has an address of its own, so that all may listen."""
    return f"127.0.0.{index + 1}" if apart else "127.0.0.1"


def group_toml(
    names: list[str], group_id: str, trees: int, quota_bytes: int, *, apart: bool = False
) -> str:
    lines = [
        "version = 1",
        'group = "test"',
        f'group_id = "{group_id}"',
        f"journal_quota_bytes = {quota_bytes}",
    ]
    for index, name in enumerate(names):
        identity = ("primary", "secondary", "tertiary")[index]
        lines += [
            "[[members]]",
            f'name = "{name}"',
            f'identity = "{identity}"',
            f'management = "{address_of(index, apart)}"',
        ]
    for tree in range(1, trees + 1):
        lines += ["[[protect]]", f"id = {tree}", f'path = "/srv/tree{tree}"']
    return "\n".join(lines) + "\n"


class Server:
    """One replicator with its places; the lower trees are plain directories."""

    def __init__(
        self,
        base: Path,
        name: str,
        authority: Authority,
        port: int,
        *,
        names: tuple[str, ...] = ("alpha", "beta"),
        group_id: str = GROUP_ID,
        trees: int = 1,
        quota_bytes: int = 4 << 30,
        apart: bool = False,
    ) -> None:
        self.address = address_of(names.index(name), True) if apart else "127.0.0.1"
        self.base = base / name
        self.name = name
        self.port = port
        self.places = Places.below(self.base)
        self.places.make()
        authority.equip(self.places, name)
        identity = (
            ("primary", "secondary", "tertiary")[names.index(name)]
            if name in names
            else ("primary")
        )
        self.places.server_settings.write_text(
            f'name = "{name}"\nidentity = "{identity}"\ngroup = "test"\nmanagement = "127.0.0.1"\n'
        )
        self.places.group_settings.write_text(
            group_toml(list(names), group_id, trees, quota_bytes, apart=apart)
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.log = self.base / "log"

    def lower(self, tree: int = 1) -> Path:
        return self.places.lower(tree)

    def make_lower(self, tree: int = 1) -> Path:
        path = self.lower(tree)
        path.mkdir(exist_ok=True)
        path.chmod(0o755)
        return path

    def start(self, *arguments: str) -> None:
        environment = {**os.environ, "EVERUP_ROOT": str(self.base)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "everup.replicate", "--listen", self.address,
                    "--port", str(self.port), *arguments,
                ],
                env=environment,
                stderr=log,
            )  # fmt: skip
        wait_for(self._serves, 10)

    def _serves(self) -> bool:
        try:
            self.call("status")
        except EverupError:
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()
            return False
        return True

    def call(self, verb: str, **arguments: Any) -> dict[str, Any]:
        return call(self.places.replicator_socket, verb, deadline_ms=30_000, **arguments)

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def wait_for(condition: Callable[[], Any], seconds: float, what: str = "") -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds} s: {what or condition}")


def describe(root: Path) -> dict[bytes, tuple[Any, ...]]:
    """Everything that is replicated of a tree, by path; hard links by their first path."""
    found: dict[bytes, tuple[Any, ...]] = {}
    first: dict[int, bytes] = {}

    def visit(path: bytes, name: bytes) -> None:
        status = os.lstat(path)
        mode = status.st_mode
        facts: list[Any] = [mode, status.st_uid, status.st_gid, status.st_mtime_ns]
        facts.append(_xattrs(path))
        if stat.S_ISREG(mode):
            facts += [status.st_size, _content(path), _holes(path, status.st_size)]
        elif stat.S_ISLNK(mode):
            facts.append(os.readlink(path))
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            facts.append(status.st_rdev)
        if not stat.S_ISDIR(mode):
            facts.append(first.setdefault(status.st_ino, name))
        found[name or b"."] = tuple(facts)
        if stat.S_ISDIR(mode):
            for inner in sorted(os.listdir(path)):
                if not name and inner == HIDDEN:
                    continue
                visit(path + b"/" + inner, name + b"/" + inner if name else inner)

    visit(os.fsencode(root), b"")
    return found


def _xattrs(path: bytes) -> tuple[tuple[str, bytes], ...]:
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return tuple(
        (name, os.getxattr(path, name, follow_symlinks=False))
        for name in names
        if not name.startswith("trusted.everup.")
    )


def _content(path: bytes) -> str:
    with open(path, "rb") as file:  # noqa: PTH123
        return hashlib.file_digest(file, "sha256").hexdigest()


def _holes(path: bytes, size: int) -> bool:
    """Whether the file has large holes at all; their exact borders are the file system's."""
    return size >= 1 << 20 and os.lstat(path).st_blocks * 512 < size // 2


def object_ids(root: Path) -> dict[bytes, bytes]:
    """Object id of every path below a root."""
    found = {}
    top = os.fsencode(root)
    for directory, directories, files in os.walk(top):
        if directory == top and HIDDEN in directories:
            directories.remove(HIDDEN)
        for name in directories + files:
            path = directory + b"/" + name
            try:
                value = os.getxattr(path, "trusted.everup.id", follow_symlinks=False)
            except OSError:
                value = b""
            found[path[len(top) + 1 :]] = value[:16]
    return found


def differences(left: Path, right: Path) -> list[str]:
    ours, theirs = describe(left), describe(right)
    found = []
    for path in sorted(ours.keys() | theirs.keys()):
        if ours.get(path) != theirs.get(path):
            found.append(f"{path!r}: {ours.get(path)} / {theirs.get(path)}")
    return found
