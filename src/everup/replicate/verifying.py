"""Verifications on the active server: begun, remembered, and what differs is repaired.

What enters: paths to look at, from the agent. What leaves: one verification per peer that follows,
results that outlive the process (`verified.json`), events; and a link that compares everything when
something is different. Owned by the process; used while it is the source.
"""

import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from everup.errors import EverupError, Refused
from everup.model.words import count_text
from everup.replicate.context import Context
from everup.replicate.link import PeerLink
from everup.replicate.resting import ASKED, Pace, gentle
from everup.replicate.verify import Verification
from everup.system.files import load_json, save_json

NAMED_IN_EVENT = 5
GIVE_WAY_SECONDS = 10.0
"""A verification that nobody waits for ends within so long when somebody asks for one."""

Json = dict[str, Any]


class Verifying:
    """`links`: those of the source, or none while this server is not active."""

    def __init__(self, context: Context, links: Callable[[], Sequence[PeerLink]]) -> None:
        self._context = context
        self._links = links
        self._changed = threading.Condition()
        self._running: dict[str, Verification] = {}
        self._scheduled = False
        self._number = 0
        self._last, self._whole = self._load()

    def start(self, wanted: Mapping[int, bytes], *, slow: bool, scheduled: bool = False) -> int:
        """Begin with every peer that is in sync; returns the number of this verification.

        `slow`: for the sake of disks and applications. `scheduled`: nobody asked for it; it ends
        when somebody does. Raises Refused when there is no such peer, or when one is under way.
        """
        ready = [link for link in self._links() if link.in_sync]
        with self._changed:
            self._make_way(scheduled)
            if not ready:
                raise Refused(
                    "no other server is synchronized, so there is nothing to verify against",
                    remedy="everup status --wait synchronized, then again",
                    code="no-peer-in-sync",
                )
            self._number += 1
            self._scheduled = scheduled
            pace = gentle(self._context.group.verify_bytes_per_s) if slow or scheduled else ASKED
            for link in ready:
                self._begin(link, dict(wanted), pace)
            return self._number

    def _make_way(self, scheduled: bool) -> None:
        if self._running and self._scheduled and not scheduled:
            for verification in self._running.values():
                verification.stop()
            self._changed.wait_for(lambda: not self._running, GIVE_WAY_SECONDS)
        if self._running:
            raise Refused(
                "a verification is under way",
                remedy="wait for its end: everup verify --last",
                code="verify-under-way",
            )

    def _begin(self, link: PeerLink, wanted: dict[int, bytes], pace: Pace) -> None:
        def queue() -> tuple[int, int]:
            waiting = link.status()["send_queue"]
            return int(waiting["bytes"]), int(waiting["oldest_ms"])

        verification = Verification(self._context, link.epoch, link.place, wanted, pace, queue)
        self._running[link.server] = verification
        verification.start()
        number, scheduled = self._number, self._scheduled
        threading.Thread(
            target=self.follow,
            args=(link, verification, number, scheduled),
            name=f"verified-{link.server}",
            daemon=True,
        ).start()

    def stop(self) -> None:
        """This server is not active any more."""
        with self._changed:
            for verification in self._running.values():
                verification.stop()

    def status(self) -> Json:
        """What runs, how the last one with each peer ended, and the last one of everything."""
        with self._changed:
            running = {name: each.progress() for name, each in self._running.items()}
            return {
                "number": self._number,
                "running": running,
                "scheduled": self._scheduled and bool(running),
                "results": dict(self._last),
                "whole": dict(self._whole),
            }

    def follow(
        self, link: PeerLink, verification: Verification, number: int, scheduled: bool = False
    ) -> None:
        """Wait for the end of one, have repaired what is different, then make the result known."""
        verification.join()
        try:
            self._tell(link, verification)
        except Exception:  # A mistake of ours must not leave it running for ever.
            traceback.print_exc()
        result = {"number": number, "scheduled": scheduled, **_result(verification)}
        with self._changed:
            self._last[link.server] = result
            if verification.whole and verification.error is None:
                self._whole[link.server] = result
            self._running.pop(link.server, None)
            self._save()
            self._changed.notify_all()

    def _tell(self, link: PeerLink, verification: Verification) -> None:
        emit = self._context.events.emit
        if verification.error is not None:
            emit("verify-broken-off", f"{link.server}: {verification.error.sentence}")
            return
        if verification.different:
            link.compare()
            emit(
                "verify-different",
                f"{count_text(verification.different, 'object')} differed on {link.server} and "
                f"will be repaired: {self._names(verification)}",
                severity="critical",
                server=link.server,
            )
            return
        objects = verification.progress()["objects"] - verification.busy
        busy = ""
        if verification.busy:
            busy = f"; {verification.busy} more were written all the time and are unchecked"
        emit("verify-equal", f"{count_text(objects, 'object')} proven equal on {link.server}{busy}")

    def _names(self, verification: Verification) -> str:
        names = [
            f"{self._context.path_of(tree)}/{path}".rstrip("/")
            for tree, count in verification.counts.items()
            for path in count.to_json()["paths"][:NAMED_IN_EVENT]
        ][:NAMED_IN_EVENT]
        more = verification.different - len(names)
        return ", ".join(names) + (f" and {more} more" if more > 0 else "")

    def _save(self) -> None:
        """Not worth more than a word when it fails: a later verification says the same."""
        value = {"last": self._last, "whole": self._whole}
        try:
            save_json(self._path, value, operation="save-verified", door=self._context.door)
        except OSError as problem:
            self._context.events.emit(
                "verified-not-saved",
                f"the result of a verification cannot be stored: {problem.strerror}",
                severity="warning",
            )

    @property
    def _path(self) -> Path:
        return self._context.places.state / "verified.json"

    def _load(self) -> tuple[dict[str, Json], dict[str, Json]]:
        """The last result with each peer, and the last one of everything."""
        try:
            value = load_json(self._path) or {"last": {}, "whole": {}}
            return dict(value["last"]), dict(value["whole"])
        except (ValueError, OSError, EverupError, TypeError, KeyError):
            return {}, {}


def _result(verification: Verification) -> Json:
    error = verification.error
    position = verification.position
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "whole": verification.whole,
        "position": position.to_json() if position is not None else None,
        "error": error.to_json() if error is not None else None,
        **verification.progress(),
        "trees": {str(tree): c.to_json() for tree, c in verification.counts.items()},
    }
