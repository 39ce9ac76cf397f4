"""What the keeper expects of the code that has the public address in its hands.

What leaves: the interface `PublicDoor`, and the one for servers without an address (the witness).
The kernel's side is `everup.network.public`; the process's main puts the two together, since
neither imports the other.
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from everup.errors import EverupError, Refused

Done = Callable[[EverupError | None], None]
NEVER_NS = 1 << 62


class PublicDoor(Protocol):
    """Times are nanoseconds of the boot-time clock; every method returns quickly."""

    def configure(self, guarded: Iterable[str]) -> None: ...

    def leased(self, now_ns: int, deadline_ns: int) -> None: ...

    def up(self, now_ns: int, texts: Iterable[str], interface: str, done: Done) -> None: ...

    def restore(self, now_ns: int, wanted: Iterable[tuple[str, str]]) -> None: ...

    def wanted(self) -> list[tuple[str, str]]: ...

    def down(self, texts: Iterable[str], interface: str) -> None: ...

    def announce_again(self, now_ns: int) -> None: ...

    def tick(self, now_ns: int) -> int: ...

    def status(self) -> dict[str, Any]: ...


class NoPublicAddress:
    """A server that never has an address: the witness."""

    def configure(self, guarded: Iterable[str]) -> None:
        del guarded

    def leased(self, now_ns: int, deadline_ns: int) -> None:
        del now_ns, deadline_ns

    def up(self, now_ns: int, texts: Iterable[str], interface: str, done: Done) -> None:
        del now_ns, texts, interface, done
        raise Refused("a witness has no public address", code="no-data-here")

    def restore(self, now_ns: int, wanted: Iterable[tuple[str, str]]) -> None:
        del now_ns, wanted

    def wanted(self) -> list[tuple[str, str]]:
        return []

    def down(self, texts: Iterable[str], interface: str) -> None:
        del texts, interface

    def announce_again(self, now_ns: int) -> None:
        del now_ns

    def tick(self, now_ns: int) -> int:
        return now_ns + NEVER_NS

    def status(self) -> dict[str, Any]:
        return {"public": [], "present": [], "announced": False, "problem": ""}
