"""The root directory of a lab server: an overlay of the host's own root, made into another machine.

What enters: the lab, the server's plan and disk. What leaves: a mounted root with its own name,
machine id, addresses and the services that this server shall start; nothing that the host starts
by itself starts in here.
"""

import shutil
from pathlib import Path

from everup.lab.base import Base, labs_directory
from everup.lab.commands import LabError
from everup.lab.layout import NETWORKS, REAL_DIRECTORIES, SERVERS, ServerPlan, machine_id

LAYER = "/run/lab/layer"

# Below these the host says what it starts by itself.
_STARTED_BY_THE_HOST = ("multi-user", "graphical", "sockets", "timers", "network-online", "sysinit")
_RUN_LEVELS = tuple(f"etc/rc{level}.d" for level in "0123456S")
_MASKED = (
    "console-getty.service",
    "dev-hugepages.mount",
    "e2scrub_reap.service",
    "getty.target",
    "modprobe@.service",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "sys-kernel-config.mount",
    "systemd-modules-load.service",
    "systemd-sysctl.service",
    "systemd-timesyncd.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
)

_NETWORK_UNIT = """\
[Unit]
Description=Addresses of this lab server
DefaultDependencies=no
After=network-pre.target local-fs.target
Before=network.target shutdown.target
Wants=network-pre.target network.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/ip -force -batch /etc/everup-lab/addresses

[Install]
WantedBy=multi-user.target
"""

# nspawn hides this; a real server has it, and a FUSE connection is aborted through it.
_FUSECTL_UNIT = """\
[Unit]
Description=Control files of FUSE connections
DefaultDependencies=no
Before=local-fs-pre.target
Wants=local-fs-pre.target
ConditionPathExists=!/sys/fs/fuse/connections

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/mount -o remount,rw /sys
ExecStart=/usr/bin/mkdir -p /sys/fs/fuse/connections
ExecStart=/usr/bin/mount -t fusectl fusectl /sys/fs/fuse/connections
ExecStart=/usr/bin/mount -o remount,ro /sys

[Install]
WantedBy=sysinit.target
"""


class Root:
    """The root of one server, as seen from the lab's namespaces."""

    def __init__(self, base: Base, plan: ServerPlan, disk_inside: str) -> None:
        self._base = base
        self._plan = plan
        self._disk = disk_inside
        self.inside = f"/run/lab/root/{plan.name}"

    @property
    def path(self) -> Path:
        return self._base.path(self.inside)

    def mount(self) -> None:
        """The server's writable layer over the installed layer (if any) over the host's root."""
        layer = f"{LAYER}/up:" if self._base.is_mounted(LAYER) else ""
        self.path.mkdir(parents=True, exist_ok=True)
        options = f"lowerdir={layer}/,upperdir={self._disk}/up,workdir={self._disk}/work"
        self._base.run(["mount", "-t", "overlay", "overlay", "-o", options, self.inside])

    def unmount(self) -> None:
        self._base.run(["umount", self.inside])

    def prepare(self, services: tuple[str, ...] = ()) -> None:
        """Make the fresh overlay into this server; `services` are units to start at boot."""
        root = self.path
        self._forget_what_the_host_starts(root)
        self._name_it(root)
        units = root / "etc/systemd/system"
        (units / "lab-network.service").write_text(_NETWORK_UNIT)
        (units / "lab-fusectl.service").write_text(_FUSECTL_UNIT)
        self._enable(units, "multi-user", "lab-network.service", units / "lab-network.service")
        self._enable(units, "sysinit", "lab-fusectl.service", units / "lab-fusectl.service")
        for service in services:
            self._enable(units, "multi-user", service, Path("/lib/systemd/system") / service)
        for path in REAL_DIRECTORIES:
            (root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
        self._base.run(["sync", "-f", self._disk])

    def _forget_what_the_host_starts(self, root: Path) -> None:
        units = root / "etc/systemd/system"
        units.mkdir(parents=True, exist_ok=True)
        for target in _STARTED_BY_THE_HOST:
            shutil.rmtree(units / f"{target}.target.wants", ignore_errors=True)
        for directory in _RUN_LEVELS:
            shutil.rmtree(root / directory, ignore_errors=True)
        for unit in _MASKED:
            (units / unit).unlink(missing_ok=True)
            (units / unit).symlink_to("/dev/null")

    def _name_it(self, root: Path) -> None:
        plan, etc = self._plan, root / "etc"
        identity = machine_id(self._base.name, plan.name)
        for name, text in (
            ("hostname", f"{plan.name}\n"),
            ("machine-id", f"{identity}\n"),
            ("fstab", ""),
            ("hosts", hosts_file()),
        ):
            (etc / name).unlink(missing_ok=True)
            (etc / name).write_text(text)
        (etc / "resolv.conf").unlink(missing_ok=True)
        (etc / "resolv.conf").write_text("# the lab has no name servers, see /etc/hosts\n")
        (etc / "everup-lab").mkdir(exist_ok=True)
        (etc / "everup-lab/addresses").write_text(addresses_batch(plan))

    @staticmethod
    def _enable(units: Path, target: str, unit: str, source: Path) -> None:
        if not source.exists():
            raise LabError(f"The unit {unit} is not installed on this machine.")
        wants = units / f"{target}.target.wants"
        wants.mkdir(exist_ok=True)
        inside = f"/etc/systemd/system/{unit}" if source.parent == units else str(source)
        (wants / unit).symlink_to(inside)

    def nspawn_binds(self) -> list[str]:
        """What nspawn must bind: the real directories, FUSE, a journal that outlives the server."""
        recorder = self._base.directory / "journal" / self._plan.name
        recorder.mkdir(parents=True, exist_ok=True)
        binds = [f"--bind={self._disk}/real{path}:{path}" for path in REAL_DIRECTORIES]
        binds += ["--bind=/dev/fuse", f"--bind={recorder}:/var/log/journal"]
        return [*binds, f"--tmpfs={labs_directory()}"]


def hosts_file() -> str:
    """Everybody's name: the plain name is the management address where there is one."""
    lines = ["127.0.0.1 localhost", "::1 localhost"]
    for plan in SERVERS.values():
        for network in ("management", "channel", "public"):
            if network in plan.hosts:
                short = f" {plan.name}" if network == "management" else ""
                lines.append(f"{plan.address(network)}{short} {plan.name}.{network}")
    return "\n".join(lines) + "\n"


def addresses_batch(plan: ServerPlan) -> str:
    """For `ip -batch`: what the distribution's own network configuration does on a real server."""
    lines = ["link set lo up"]
    for name in plan.hosts:
        device = NETWORKS[name].device
        lines += [f"link set {device} up", f"addr add {plan.address(name)}/24 dev {device}"]
    return "\n".join(lines) + "\n"
