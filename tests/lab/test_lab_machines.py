"""The lab itself: a power cut really loses what was not synced, and nothing is left behind."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from everup.cli.lab_command import app
from everup.errors import DeadlinePassed, Refused
from everup.lab import Lab
from everup.lab.base import Base, known_labs
from everup.lab.capture import Capture, Frame
from everup.lab.cgroups import Group
from everup.lab.commands import LabError, run_host
from everup.lab.layout import REAL_DIRECTORIES

pytestmark = [pytest.mark.lab]

NAME = f"self{os.getpid()}"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab = Lab(NAME)
    lab.up(["primary", "secondary"], file_system={"primary": "ext4", "secondary": "xfs"})
    yield lab
    lab.down()


def write_everywhere(lab: Lab, server: str) -> None:
    """In each real directory one file that is synced and one that is not."""
    program = """
        import os, sys
        for directory in sys.argv[1:]:
            for name, wanted in (("synced", True), ("unsynced", False)):
                with open(f"{directory}/{name}", "wb") as handle:
                    handle.write(b"x" * 10_000)
                    handle.flush()
                    if wanted:
                        os.fsync(handle.fileno())
            handle = os.open(directory, os.O_RDONLY)
            os.fsync(handle)
        for directory in sys.argv[1:]:
            with open(f"{directory}/late", "wb") as handle:
                handle.write(b"y" * 10_000)
    """
    lab.server(server).run(["python3", "-c", textwrap.dedent(program), *REAL_DIRECTORIES])


@pytest.mark.parametrize("server", ["primary", "secondary"])
def test_a_power_cut_loses_what_was_not_synced_in_every_real_directory(
    lab: Lab, server: str
) -> None:
    write_everywhere(lab, server)
    boot_id = lab.server(server).run(["cat", "/proc/sys/kernel/random/boot_id"]).output
    lab.power_cut(server)
    with pytest.raises(LabError, match="no power"):
        lab.server(server).run(["true"])
    lab.power_on(server)
    assert lab.server(server).run(["cat", "/proc/sys/kernel/random/boot_id"]).output != boot_id
    for directory in REAL_DIRECTORIES:
        there = lab.server(server).disk.real(directory)
        assert (there / "synced").read_bytes() == b"x" * 10_000, directory
        assert not (there / "late").exists(), directory
        lost = there / "unsynced"
        assert not lost.exists() or b"x" not in lost.read_bytes(), directory


def test_a_power_cut_among_ending_programs_and_half_of_one_leave_a_server_that_boots(
    lab: Lab,
) -> None:
    server = lab.server("secondary")
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            try:
                server.run(["true"], check=False)
            except LabError:
                return

    threads = [threading.Thread(target=busy) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    lab.power_cut("secondary")
    stop.set()
    for thread in threads:
        thread.join()
    lab.power_on("secondary")
    # Half of a power cut: the disk is dead, the processes are too, and nothing is taken apart.
    server.disk.lose_power()
    Group(lab.name, "secondary").kill()
    lab.power_on("secondary")
    assert server.run(["cat", "/etc/hostname"]).output == "secondary\n"
    assert is_reached(lab)


def test_a_server_that_was_shut_down_in_order_keeps_everything_and_boots_again(lab: Lab) -> None:
    server = lab.server("primary")
    server.run(["sh", "-c", "echo kept > /srv/unsynced-but-shut-down"])
    server.run(["systemctl", "poweroff", "--no-block"], check=False)
    wait_for(lambda: not server.powered, 20)
    lab.power_on("primary")
    assert server.run(["cat", "/srv/unsynced-but-shut-down"]).output == "kept\n"
    assert is_reached(lab)


def is_reached(lab: Lab) -> bool:
    """Its cables are plugged in again: it refuses a connection itself."""
    program = (
        "import errno,socket,sys; s=socket.socket(); s.settimeout(2);"
        " sys.exit(s.connect_ex(('10.0.0.1', 9)) != errno.ECONNREFUSED)"
    )
    return lab.server("secondary").run(["python3", "-c", program], check=False).exit_code == 0


def test_every_real_directory_lies_on_the_servers_own_disk(lab: Lab) -> None:
    for server in ("primary", "secondary"):
        words = lab.server(server).run(["findmnt", "-rno", "FSTYPE", *REAL_DIRECTORIES[:1]])
        assert words.output.strip() in ("ext4", "xfs")
        for directory in REAL_DIRECTORIES:
            found = lab.server(server).run(["findmnt", "-rno", "SOURCE", directory]).output
            assert found.startswith("/dev/loop"), (server, directory, found)


def test_no_goodbye_leaves_at_the_power_cut_but_one_would_be_seen(lab: Lab) -> None:
    listen = textwrap.dedent(
        """
        import socket, subprocess, sys
        server = socket.create_server(("10.0.0.2", 9000))
        print("listening", flush=True)
        while True:
            peer, _ = server.accept()
            peer.sendall(b"hello")
            peers = globals().setdefault("peers", []) + [peer]
            globals()["peers"] = peers
        """
    )
    connect = (
        "import socket,time; s=socket.create_connection(('10.0.0.2',9000),5); s.recv(9);"
        " time.sleep({})"
    )
    log = lab.directory / "listener.log"
    listener = lab.server("secondary").start(["python3", "-c", listen], log)
    wait_for(lambda: "listening" in log.read_text())
    with Capture(lab.base, "primary", "channel") as seen:
        lab.server("primary").run(["python3", "-c", connect.format(0)])
    assert any(frame.says_goodbye for frame in seen.frames), "the capture sees goodbyes"

    with Capture(lab.base, "primary", "channel") as seen:
        stays = lab.server("primary").start(
            ["python3", "-c", connect.format(60)], lab.directory / "connection.log"
        )
        wait_for(lambda: any(answer_to_primary(frame) for frame in seen.frames))
        began = time.monotonic()
        lab.power_cut("primary")
    stays.wait(10)
    assert [frame for frame in seen.frames if frame.outgoing and frame.at > began + 0.05] == []
    assert [frame for frame in seen.frames if frame.outgoing and frame.says_goodbye] == []
    lab.power_on("primary")
    listener.terminate()


def answer_to_primary(frame: Frame) -> bool:
    return frame.protocol == "tcp" and frame.source_port == 9000 and not frame.outgoing


def wait_for(condition: object, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    assert callable(condition)
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_exec_passes_stdin_stdout_and_the_exit_code(lab: Lab) -> None:
    outcome = lab.server("primary").run(
        ["sh", "-c", "cat; echo trouble >&2; exit 7"], stdin="words", check=False
    )
    assert (outcome.exit_code, outcome.output, outcome.errors) == (7, "words", "trouble\n")
    killed = lab.server("primary").run(["sh", "-c", "kill -9 $$"], check=False)
    assert killed.exit_code == 128 + 9
    assert lab.server("primary").run(["no-such-program"], check=False).exit_code == 127
    command = [sys.executable, "-c", "from everup.cli.lab_command import app; app()"]
    shell = subprocess.run(
        [*command, "exec", "--name", NAME, "primary", "--", "sh", "-c", "cat; hostname; exit 9"],
        input=b"through the shell\n",
        capture_output=True,
        check=False,
    )
    assert shell.stdout == b"through the shell\nprimary\n", shell.stderr
    assert shell.returncode == 9


def test_a_command_that_takes_too_long_is_killed_with_its_children(lab: Lab) -> None:
    with pytest.raises(DeadlinePassed):
        lab.server("primary").run(["sh", "-c", "sleep 987 & sleep 987"], timeout_s=0.5)
    left = lab.server("primary").run(["pgrep", "-f", "sleep 987"], check=False)
    assert left.exit_code == 1


def test_servers_have_what_everup_needs(lab: Lab) -> None:
    """FUSE with its control files, nftables, handles, trusted attributes, real time, mlock."""
    program = """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mlockall(3) == 0
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(10))
        path = "/var/lib/everup/probe"
        open(path, "w").close()
        os.setxattr(path, "trusted.everup.id", b"x" * 40)
        class Handle(ctypes.Structure):
            _fields_ = [("size", ctypes.c_uint), ("kind", ctypes.c_int), ("b", ctypes.c_char * 64)]
        handle, mount = Handle(64), ctypes.c_int()
        both = ctypes.byref(handle), ctypes.byref(mount)
        assert libc.name_to_handle_at(-100, path.encode(), *both, 0) == 0
        directory = os.open("/var/lib/everup", os.O_RDONLY)
        assert libc.open_by_handle_at(directory, ctypes.byref(handle), os.O_RDWR) >= 0
        fuse = os.open("/dev/fuse", os.O_RDWR)
        os.makedirs("/mnt/probe", exist_ok=True)
        options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
        assert libc.mount(b"probe", b"/mnt/probe", b"fuse.probe", 0, options) == 0
        assert os.listdir("/sys/fs/fuse/connections")
        assert libc.umount2(b"/mnt/probe", 2) == 0
    """
    for server in ("primary", "secondary"):
        # As a unit: services run under the machine's own system call filter, `exec` does not.
        unit = ["systemd-run", "--quiet", "--pipe", "--wait"]
        lab.server(server).run([*unit, "python3", "-c", textwrap.dedent(program)])
        lab.server(server).run(
            ["nft", "-f", "-"],
            stdin="table inet probe { set s { type ipv4_addr; flags timeout; }; }\n",
        )
        assert lab.server(server).run(["systemctl", "is-system-running"]).output == "running\n"
        assert lab.server(server).run(["hostname"]).output == f"{server}\n"


def test_nothing_that_the_host_starts_runs_inside(lab: Lab) -> None:
    running = lab.server("primary").run(["ps", "-eo", "comm"]).output.split()
    assert not {"postgres", "avahi-daemon", "cron", "sshd"} & set(running)


def reaches(lab: Lab, network_address: str) -> bool:
    """Whether a datagram from the primary comes back from an echo on the secondary."""
    probe = (
        "import socket,sys; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.settimeout(0.4);"
        f"s.sendto(b'x',('{network_address}',9007)); s.recv(9)"
    )
    return lab.server("primary").run(["python3", "-c", probe], check=False).exit_code == 0


def test_cables_can_be_cut_both_ways_or_one_way_and_healed(lab: Lab) -> None:
    echo = textwrap.dedent(
        """
        import socket
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.bind(("0.0.0.0", 9007))
        print("listening", flush=True)
        while True:
            s.sendto(*s.recvfrom(99))
        """
    )
    log = lab.directory / "echo.log"
    process = lab.server("secondary").start(["python3", "-c", echo], log)
    wait_for(lambda: "listening" in log.read_text())
    assert reaches(lab, "10.0.0.2")
    for one_way in ("", "in", "out"):
        lab.cut("primary:channel", one_way)
        assert not reaches(lab, "10.0.0.2"), one_way
        assert reaches(lab, "198.51.100.12")
        lab.heal("primary:channel")
        wait_for(lambda: reaches(lab, "10.0.0.2"))
    lab.cut("management")
    assert not reaches(lab, "198.51.100.12")
    lab.heal("management")
    wait_for(lambda: reaches(lab, "198.51.100.12"))

    lab.slow("primary:channel", delay_ms=60)
    began = time.monotonic()
    assert reaches(lab, "10.0.0.2")
    assert time.monotonic() - began > 0.12
    lab.heal("primary:channel")
    wait_for(lambda: reaches(lab, "10.0.0.2"))

    lab.freeze("secondary")
    assert not reaches(lab, "10.0.0.2")
    lab.thaw("secondary")
    wait_for(lambda: reaches(lab, "10.0.0.2"))
    process.terminate()


def test_a_second_lab_stands_beside_and_goes_without_a_trace(lab: Lab) -> None:
    other = Lab(f"{NAME}b")
    other.up(["primary"])
    with pytest.raises(Refused):
        other.up(["primary"])
    other.server("primary").run(["touch", "/srv/other"])
    assert not (lab.server("primary").disk.real("/srv") / "other").exists()
    # A disk can be unmounted although the other lab saw this one's mounts come and go.
    lab.power_cut("primary")
    lab.power_on("primary")
    other.down()
    assert traces(other.name) == []
    assert lab.server("primary").run(["hostname"]).output == "primary\n"


def traces(name: str) -> list[str]:
    """Whatever could be left of a lab on the host."""
    left = [entry for entry in known_labs() if entry == name]
    left += [
        line for line in run_host(["losetup", "-a"]).stdout.splitlines() if f"/{name}/" in line
    ]
    left += [line for line in Path("/proc/mounts").read_text().splitlines() if f"/{name}/" in line]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if f"/everup-lab/{name}/" in words:
                left.append(words)
    return left


@pytest.mark.parametrize("after_s", [0.15, 0.4, 0.8])
def test_down_after_the_starter_was_killed_half_way(after_s: float) -> None:
    name = f"{NAME}k"
    program = f"from everup.lab import Lab; Lab({name!r}).up(['primary', 'secondary'])"
    starter = subprocess.Popen([sys.executable, "-c", program])
    wait_for(lambda: Base(name).exists)
    time.sleep(after_s)
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    result = CliRunner().invoke(app, ["down", "--name", name])  # the verb itself, as a person does
    assert result.exit_code == 0, result.output
    assert not Group(name).directory.exists()
    assert traces(name) == []
    Lab(name).down()


def test_what_a_server_says_of_itself_never_has_to_wait_for_us(lab: Lab) -> None:
    """systemd tells twice a second about a job that takes long, through nspawn, to a socket of this
    process. When that one was full, the server's process 1 stood still.
    """
    lab.power_cut("primary")
    lab.power_on("primary", wait=False)
    lab.server("primary").wait_until_up()
    said = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
        speaker.setblocking(False)
        for _ in range(100):
            try:
                speaker.sendto(b"STATUS=working", str(lab.directory / "notify/primary"))
            except ConnectionRefusedError:
                said += 1  # closed: nspawn does not wait for anybody
    assert said > 0
