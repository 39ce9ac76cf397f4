"""stress-ng's class of file system stressors, on a mount and on the file system below it.

What enters: a directory, how long. What leaves: which stressors passed, failed or were skipped.
Called by test_fuse_stress (short) and by the soak part `stress` (minutes).
"""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

CLASS = "filesystem"
LEFT_OUT = {
    "binderfs": "mounts a file system of its own, touches no directory given to it",
    "procfs": "reads /proc, touches no directory given to it",
    "ioprio": "sets priorities of processes, touches no directory given to it",
    "eventfd": "has no file, touches no directory given to it",
    "chdir": "makes 8,192 directories and removes them, whatever the time limit says",
}
"""Stressors that are not run on either side, each with its reason."""
SMALLER = [
    "--hdd-bytes", "4m", "--iomix-bytes", "8m", "--fallocate-bytes", "4m", "--copy-file-bytes",
    "128m", "--sync-file-bytes", "2m", "--fiemap-bytes", "1m", "--dentries", "512",
    # The replayer of the tests names directories by their whole path.
    "--dirdeep-inodes", "400",
]  # fmt: skip
CLEAN_UP_S = 120
_RAN = re.compile(r"metrc: .*\] ([\w-]+) +\d+ ")
_SAID = re.compile(r"(fail|error|warn|info): +\[\d+\] ([\w-]+): (.*)$")


class Outcome(NamedTuple):
    """Names of stressors by how they ended, and what stress-ng said of failures."""

    code: int
    passed: set[str]
    failed: set[str]
    skipped: set[str]
    sentences: list[str]


def stressors() -> list[str]:
    """All of the class that this stress-ng knows, without those that are left out."""
    told = subprocess.run(
        ["stress-ng", "--class", f"{CLASS}?"], capture_output=True, text=True, timeout=10
    )
    names = (told.stdout + told.stderr).split("stressors:")[1].split()
    return [name for name in names if name not in LEFT_OUT]


def run_stress(place: Path, names: list[str], seconds: int) -> Outcome:
    """All stressors at once, one of each, with verification. Raises when stress-ng hangs."""
    words = ["stress-ng", "--verify", "--metrics-brief", "--timeout", f"{seconds}s"]
    words += ["--temp-path", str(place), *SMALLER]
    for name in names:
        words += [f"--{name}", "1"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=seconds + CLEAN_UP_S)
    text = done.stdout + done.stderr
    ran, failed, skipped = set(_RAN.findall(text)) & set(names), set(), set()
    sentences = []
    for line in text.splitlines():
        said = _SAID.search(line)
        if said and "skipping" in said[3]:
            skipped.add(said[2])
        elif said and said[1] in ("fail", "error"):
            failed.add(said[2])
            sentences.append(line)
    if done.returncode and not sentences:
        sentences = text.splitlines()[-20:]
    return Outcome(done.returncode, ran - failed - skipped, failed, skipped, sentences)


def findings(below: Outcome, mounted: Outcome) -> list[str]:
    """What passes below and not on the mount."""
    found = [f"{name} passes below and fails" for name in sorted(below.passed & mounted.failed)]
    lost = below.passed - mounted.passed - mounted.failed - mounted.skipped
    found += [f"{name} was never heard of" for name in sorted(lost)]
    if mounted.code and not below.code:
        found.append(f"stress-ng ended with {mounted.code}")
    return found + mounted.sentences if found else []
