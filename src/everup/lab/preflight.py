"""What this machine must have before a lab can be built, each missing thing with its remedy.

What enters: the machine. What leaves: a list of sentences; the lab is not begun while it has any.
"""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from everup.errors import EverupError, Refused
from everup.lab.base import labs_directory
from everup.lab.cgroups import unified_root

_PROGRAMS = {
    "systemd-nspawn": "systemd-container",
    "nsenter": "util-linux",
    "losetup": "mount",
    "blkid": "util-linux",
    "ip": "iproute2",
    "nft": "nftables",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "dbus-daemon": "dbus",
}
_DEVICES = {"/dev/fuse": "modprobe fuse", "/dev/loop-control": "modprobe loop"}
_DEMO_PROGRAMS = {
    "initdb": "postgresql",
    "pgbench": "postgresql",
    "pg_amcheck": "postgresql-client",
}
_ETCD_PROGRAMS = {"/usr/bin/etcd": "etcd-server", "/usr/bin/etcdctl": "etcd-client"}
_LEAST_FREE_BYTES = 6 << 30


@dataclass(frozen=True)
class Missing:
    """One thing that this machine lacks."""

    sentence: str
    remedy: str


def missing_things() -> list[Missing]:
    """Everything that stands against a lab here; empty when there is nothing."""
    found = []
    if os.geteuid() != 0:
        found.append(Missing("The lab makes whole servers and needs root.", "Run it as root."))
    for program, package in _PROGRAMS.items():
        if shutil.which(program, path=_search_path()) is None:
            found.append(
                Missing(f"The program {program} is missing.", f"apt-get install {package}")
            )
    for device, remedy in _DEVICES.items():
        if not Path(device).exists():
            found.append(Missing(f"The device {device} is missing.", remedy))
    found += _missing_from_the_kernel()
    found += _missing_space()
    return found


def _search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _missing_from_the_kernel() -> list[Missing]:
    found = []
    known = {line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines()}
    found += [
        Missing(f"The kernel has no file system {name} (yet).", f"modprobe {name}")
        for name in ("overlay", "ext4", "fuse")
        if name not in known
    ]
    try:
        unified_root()
    except EverupError as error:
        found.append(Missing(error.sentence, error.remedy))
    if _file_system_of(Path("/")) == "overlay":
        remedy = "Run it on a machine or virtual machine whose root is a real file system."
        found.append(Missing("The root is itself an overlay (a container?).", remedy))
    return found


def _file_system_of(path: Path) -> str:
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        _, target, kind = line.split()[:3]
        if target == str(path):
            return kind
    return ""


def _missing_space() -> list[Missing]:
    place = labs_directory()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free >= _LEAST_FREE_BYTES:
        return []
    return [
        Missing(
            f"Only {free >> 20} MiB are free at {place}.",
            f"Free {_LEAST_FREE_BYTES >> 30} GiB, or set EVERUP_LAB_DIRECTORY to another disk.",
        )
    ]


def missing_for_the_demo() -> list[Missing]:
    """What the demo needs beside a lab: PostgreSQL, and Python's half of client and mail server."""
    found = []
    for program, package in _DEMO_PROGRAMS.items():
        if not list(Path("/usr/lib/postgresql").glob(f"*/bin/{program}")):
            found.append(
                Missing(f"PostgreSQL's {program} is missing.", f"apt-get install {package}")
            )
    if shutil.which("pg_createcluster", path=_search_path()) is None:
        remedy = "apt-get install postgresql-common"
        found.append(Missing("Debian's pg_createcluster is missing.", remedy))
    return found


def missing_for(servers: Iterable[str]) -> list[Missing]:
    """What single servers of a lab need beside the rest."""
    if not any(name.startswith("etcd") for name in servers):
        return []
    return [
        Missing(f"Debian's {package} is missing.", f"apt-get install {package}")
        for program, package in _ETCD_PROGRAMS.items()
        if not Path(program).exists()
    ]


def require(found: list[Missing]) -> None:
    """Refuse with every missing thing at once."""
    if found:
        lines = [f"{each.sentence} Remedy: {each.remedy}" for each in found]
        raise Refused(
            "This machine cannot run a lab yet:\n  " + "\n  ".join(lines),
            remedy="Do what the remedies say, then try again.",
            code="lab-preflight",
        )
