"""A whole group of servers on one machine: for newcomers, for rehearsals and for tests.

What enters: names of servers and what shall happen to them. What leaves: real servers (systemd,
network, disk of their own) that can lose power, cables and time. Called by `everup lab` and tests:

    lab = Lab("trial")
    lab.up(servers=["primary", "secondary", "witness"])
    lab.server("primary").run(["hostname"]).output
    lab.power_cut("primary")
    lab.down()

The name `Lab` is resolved at first use, because small programs of this package (the echo service,
for one) run inside the servers and must not load what only the host needs.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everup.lab.lab import Lab

__all__ = ["Lab"]


def __getattr__(name: str) -> Any:
    if name == "Lab":
        from everup.lab.lab import Lab

        return Lab
    raise AttributeError(name)
