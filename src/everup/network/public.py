"""The public addresses of a lease holder: probed, present, announced, and permitted until the end.

What enters: the deadline of the lease at every renewal, "up" and "down", time. What leaves: kernel
state that ends by itself when nobody renews it. Called by the keeper's process from its loop;
nothing here waits longer than a netlink call (0.5 ms).
"""

import contextlib
import errno
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_interface
from typing import Any

from everup.errors import EverupError, Refused
from everup.network.address import RENEW_NS, AddressTable, interface_index, keep_neighbours_of
from everup.network.announce import Speaker, speaker
from everup.network.hide import LOOP_TIMEOUT_S, hide, hide_at_exit
from everup.network.permission import Permission

MS = 1_000_000
PROBE_NS = (0, 50 * MS)
"""When the two probes leave, counted from `up`."""
PROBED_NS = 110 * MS
"""When nobody has answered by then, the address is free."""
ANNOUNCE_NS = tuple(m * MS for m in (0, 100, 300, 1000, 2000, 5000, 10_000))
ROUNDING_MS = 8
"""The kernel counts timeouts in ticks; at 250 a second this is two of them."""
RULES_CHECK_NS = 250 * MS

Done = Callable[[EverupError | None], None]


@dataclass
class Address:
    """One address that this server wants to have while its lease lasts."""

    text: str
    interface: str
    index: int
    speaker: Speaker
    began_ns: int
    done: list[Done] = field(default_factory=list)
    probes: int = 0
    announcements: int = 0
    present: bool = False
    next_ns: int = 0
    renew_ns: int = 0


class PublicAddresses:
    """`guarded` are all public addresses of the group: mute here unless up and leased."""

    def __init__(self, guarded: Iterable[str]) -> None:
        self._guarded = tuple(guarded)
        self._permission = Permission()
        self._table = AddressTable()
        self._wanted: dict[str, Address] = {}
        self._deadline_ns = 0
        self._next_check_ns = 0
        self._exits: set[str] = set()
        self._outdated = True
        self.problem = ""
        if not self._in_force():
            self._hide()

    def _in_force(self) -> bool:
        """After a restart the rules are there: what has changed in them waits for a calm moment."""
        try:
            return self._permission.in_force()
        except OSError:
            return False

    def configure(self, guarded: Iterable[str]) -> None:
        """The group's settings have changed."""
        self._guarded = tuple(guarded)
        self._hide()

    def _hide(self) -> None:
        try:
            hide(self._guarded, LOOP_TIMEOUT_S)
            self.problem, self._outdated = "", False
        except EverupError as error:
            self.problem = error.sentence
        if self._exits:
            self._hide_at_exit()

    def _hide_at_exit(self) -> None:
        try:
            hide_at_exit(self._guarded, sorted(self._exits))
            self._permission.at_exit = True
        except EverupError:
            # Kernels before 5.16 have no such hook; what the others do is enough but for a pause
            # of this process at one certain instruction.
            self._permission.at_exit = False

    # the lease

    def leased(self, now_ns: int, deadline_ns: int) -> None:
        """The lease lasts until `deadline_ns`; 0 when there is none: mute at once.

        Raises OSError when the kernel could not be told; what it was told before ends by itself.
        """
        self._deadline_ns = deadline_ns
        if deadline_ns > now_ns:
            self._permit(now_ns)
            return
        gone = list(self._wanted.values())
        self._wanted.clear()
        try:
            self._silence([address.text for address in gone])
        finally:
            for address in gone:
                self._drop(address, Refused("the lease ended", code="not-the-holder"))

    def _permit(self, now_ns: int) -> None:
        left_ms = (self._deadline_ns - now_ns) // MS - ROUNDING_MS
        texts = list(self._wanted)
        if left_ms <= 0 or not texts:
            return
        try:
            self._permission.grant(texts, left_ms)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            self._hide()
            self._permission.grant(texts, left_ms)

    def _silence(self, texts: list[str]) -> None:
        try:
            self._permission.mute(texts)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            # Without the rules nothing is mute: make them, with nothing leased.
            self._hide()
            if self.problem:
                raise

    # up and down

    def up(self, now_ns: int, texts: Iterable[str], interface: str, done: Done) -> None:
        """Have these addresses while the lease lasts; `done` is called when they answer or cannot.

        Raises EverupError when there is no lease or no such interface.
        """
        if self._deadline_ns <= now_ns:
            raise Refused("this server does not hold the lease", code="not-the-holder")
        index = interface_index(interface)
        if interface not in self._exits:
            self._exits.add(interface)
            self._hide_at_exit()
        waiting = _Together(done)
        for text in texts:
            address = self._wanted.get(text)
            if address is None:
                voice = self._speaker(text, interface)
                address = Address(text, interface, index, voice, now_ns, next_ns=now_ns)
                self._wanted[text] = address
            if not address.present:
                address.done.append(waiting.one())
        self._permit(now_ns)
        waiting.seal()
        self.tick(now_ns)

    def restore(self, now_ns: int, wanted: Iterable[tuple[str, str]]) -> None:
        """After a restart of the process: (address, interface) are ours already, do not probe."""
        for text, interface in wanted:
            voice = self._speaker(text, interface)
            address = Address(text, interface, interface_index(interface), voice, now_ns)
            address.present, address.next_ns = True, now_ns
            self._wanted[text] = address
            self._exits.add(interface)
        self._permission.find_exit()
        self._permit(now_ns)
        self._next_check_ns = now_ns + RULES_CHECK_NS

    def wanted(self) -> list[tuple[str, str]]:
        """(address, interface) of what is up, for `restore`."""
        return [(address.text, address.interface) for address in self._wanted.values()]

    def _speaker(self, text: str, interface: str) -> Speaker:
        try:
            keep_neighbours_of(interface)
            return speaker(ip_interface(text).ip, interface)
        except OSError as error:
            raise EverupError(
                f"{interface} cannot be used for {text}: {error.strerror}",
                remedy="ip link, and check that the interface is up",
                code="interface-failed",
            ) from error

    def down(self, texts: Iterable[str], interface: str) -> None:
        """Take these addresses away. Raises OSError when the kernel refuses."""
        texts = list(texts)
        self._silence(texts)
        for text in texts:
            address = self._wanted.get(text)
            if address is not None:
                self._drop(address, Refused("the address was taken away", code="down"))
            else:
                with contextlib.suppress(EverupError):
                    self._table.remove(text, interface_index(interface))

    def _drop(self, address: Address, reason: EverupError) -> None:
        self._wanted.pop(address.text, None)
        address.speaker.close()
        self._tell(address, reason)
        try:
            self._table.remove(address.text, address.index)
        except OSError as error:
            # It is mute, and its lifetime ends it.
            self.problem = f"{address.text} was not removed: {error.strerror}"

    @staticmethod
    def _tell(address: Address, result: EverupError | None) -> None:
        callbacks, address.done = address.done, []
        for callback in callbacks:
            callback(result)

    def announce_again(self, now_ns: int) -> None:
        """A partition has healed: neighbours may believe the wrong one."""
        for address in self._wanted.values():
            if address.present:
                address.announcements, address.began_ns, address.next_ns = 0, now_ns, now_ns

    # time

    def tick(self, now_ns: int) -> int:
        """Go on with probes, lifetimes and announcements; returns when it is due again."""
        if now_ns >= self._next_check_ns:
            self._next_check_ns = now_ns + RULES_CHECK_NS
            self._check_rules(now_ns)
        due = [self._next_check_ns]
        if self._deadline_ns > now_ns:
            for address in list(self._wanted.values()):
                try:
                    self._step(address, now_ns)
                except OSError as error:
                    self._failed(address, error, now_ns)
                due.append(address.next_ns)
        return min(due)

    def _check_rules(self, now_ns: int) -> None:
        """Somebody may have flushed the rules (a firewall that was loaded anew)."""
        try:
            broken = self.problem or not self._permission.in_force()
            if self._outdated or (self._guarded and broken):
                self._hide()
                if self._deadline_ns > now_ns:
                    self._permit(now_ns)
        except OSError as error:
            self.problem = f"nftables does not answer: {error.strerror}"

    def _step(self, address: Address, now_ns: int) -> None:
        since_ns = now_ns - address.began_ns
        if not address.present:
            self._probe(address, now_ns, since_ns)
            return
        if now_ns >= address.renew_ns:
            self._table.renew(address.text, address.index)
            address.renew_ns = now_ns + RENEW_NS
        at = address.announcements
        if at < len(ANNOUNCE_NS) and since_ns >= ANNOUNCE_NS[at]:
            address.speaker.announce()
            address.announcements += 1
        address.next_ns = address.renew_ns
        if address.announcements < len(ANNOUNCE_NS):
            due_ns = address.began_ns + ANNOUNCE_NS[address.announcements]
            address.next_ns = min(address.next_ns, max(due_ns, now_ns + MS))

    def _probe(self, address: Address, now_ns: int, since_ns: int) -> None:
        answer = address.speaker.answer()
        if answer is not None:
            self._silence([address.text])
            self._drop(
                address,
                Refused(
                    f"{answer.address} is in use by {answer.hardware}",
                    remedy="find that machine (ip neigh), take the address away there",
                    code="address-in-use",
                ),
            )
        elif since_ns >= PROBED_NS:
            self._table.renew(address.text, address.index)
            address.present, address.began_ns = True, now_ns
            address.renew_ns = now_ns + RENEW_NS
            address.next_ns = now_ns
            self._step(address, now_ns)
            self._tell(address, None)
        else:
            if address.probes < len(PROBE_NS) and since_ns >= PROBE_NS[address.probes]:
                address.speaker.probe()
                address.probes += 1
            address.next_ns = now_ns + 10 * MS

    def _failed(self, address: Address, error: OSError, now_ns: int) -> None:
        """Keep trying once a second; whoever waits is told the first time."""
        sentence = f"{address.text} on {address.interface}: {error.strerror}"
        self.problem = sentence
        address.next_ns = now_ns + RENEW_NS
        self._tell(address, EverupError(sentence, remedy="ip link", code="address-failed"))

    def status(self) -> dict[str, Any]:
        wanted = self._wanted.values()
        return {
            "public": list(self._guarded),
            "present": [a.text for a in wanted if a.present],
            "announced": bool(wanted) and all(a.announcements > 0 for a in wanted),
            "problem": self.problem,
        }


class _Together:
    """Calls `done` once, when all parts are done or one has failed."""

    def __init__(self, done: Done) -> None:
        self._done, self._open, self._sealed, self._told = done, 0, False, False

    def one(self) -> Done:
        self._open += 1

        def finished(error: EverupError | None) -> None:
            self._open -= 1
            self._check(error)

        return finished

    def seal(self) -> None:
        self._sealed = True
        self._check(None)

    def _check(self, error: EverupError | None) -> None:
        if not self._told and (error is not None or (self._sealed and self._open == 0)):
            self._told = True
            self._done(error)
