"""A process can give up one privilege of root, and only that one."""

import os
from pathlib import Path

import pytest

from everup.system.capabilities import SYS_RESOURCE, give_up

SYS_TIME = 25


def effective() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    raise AssertionError("no CapEff")


@pytest.mark.skipif(os.getuid() != 0, reason="needs privileges to give up")
@pytest.mark.parametrize("capability", [SYS_TIME, SYS_RESOURCE])
def test_given_up_is_gone_and_nothing_else(capability: int) -> None:
    before = effective()
    child = os.fork()
    if child == 0:
        give_up(capability)
        os._exit(0 if effective() == before & ~(1 << capability) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert effective() == before
