"""Verifications on the active server: begun, remembered, and what differs is repaired.

What enters: paths to look at, from the agent. What leaves: one verification per peer that follows,
results that outlive the process (`verified.json`), events; and a link that compares everything when
something is different. Owned by the process; used while it is the source.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from everup.errors import EverupError, Refused
from everup.replicate.context import Context
from everup.replicate.link import PeerLink
from everup.replicate.verify import Verification
from everup.system.files import load_json, save_json

SHARE = 0.5
SHARE_GENTLE = 0.1
"""Part of the time in which a verification that nobody waits for may work."""
NAMED_IN_EVENT = 5

Json = dict[str, Any]


class Verifying:
    """`links`: those of the source, or none while this server is not active."""

    def __init__(self, context: Context, links: Callable[[], Sequence[PeerLink]]) -> None:
        self._context = context
        self._links = links
        self._lock = threading.Lock()
        self._running: dict[str, Verification] = {}
        self._number = 0
        self._results: dict[str, Json] = self._load()

    def start(self, wanted: Mapping[int, bytes], *, gentle: bool) -> int:
        """Begin with every peer that is in sync; returns the number of this verification.

        Raises Refused when there is none, or when one is under way.
        """
        ready = [link for link in self._links() if link.in_sync]
        with self._lock:
            if self._running:
                raise Refused(
                    "a verification is under way",
                    remedy="wait for its end: everup verify --last",
                    code="verify-under-way",
                )
            if not ready:
                raise Refused(
                    "no other server is synchronized, so there is nothing to verify against",
                    remedy="everup status --wait synchronized, then again",
                    code="no-peer-in-sync",
                )
            self._number += 1
            for link in ready:
                share = SHARE_GENTLE if gentle else SHARE
                verification = Verification(
                    self._context, link.epoch, link.place, dict(wanted), share
                )
                self._running[link.server] = verification
                watcher = threading.Thread(
                    target=self._follow,
                    args=(link, verification),
                    name=f"verified-{link.server}",
                    daemon=True,
                )
                verification.start()
                watcher.start()
            return self._number

    def stop(self) -> None:
        """This server is not active any more."""
        with self._lock:
            for verification in self._running.values():
                verification.stop()

    def status(self) -> Json:
        """What runs, and how the last one with each peer ended."""
        with self._lock:
            running = {name: each.progress() for name, each in self._running.items()}
            return {"number": self._number, "running": running, "results": dict(self._results)}

    def _follow(self, link: PeerLink, verification: Verification) -> None:
        verification.join()
        result = self._result(verification)
        with self._lock:
            self._results[link.server] = result
            del self._running[link.server]
            save_json(self._path, self._results, operation="save-verified")
        if verification.error is not None:
            self._context.events.emit(
                "verify-broken-off", f"{link.server}: {verification.error.sentence}"
            )
        elif verification.different:
            self._repair(link, verification)
        else:
            objects = verification.progress()["objects"]
            self._context.events.emit(
                "verify-equal", f"{objects} objects are proven equal on {link.server}"
            )

    def _repair(self, link: PeerLink, verification: Verification) -> None:
        names = [
            f"{self._context.path_of(tree)}/{path}"
            for tree, count in verification.counts.items()
            for path in count.to_json()["paths"][:NAMED_IN_EVENT]  # type: ignore[index]
        ]
        shown = ", ".join(names[:NAMED_IN_EVENT])
        more = verification.different - len(names[:NAMED_IN_EVENT])
        shown += f" and {more} more" if more > 0 else ""
        self._context.events.emit(
            "verify-different",
            f"{verification.different} objects are different on {link.server} and are repaired: "
            f"{shown}",
            severity="critical",
            server=link.server,
        )
        link.compare()

    def _result(self, verification: Verification) -> Json:
        error = verification.error
        position = verification.position
        return {
            "number": self._number,
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "whole": verification.whole,
            "position": position.to_json() if position is not None else None,
            "error": error.to_json() if error is not None else None,
            **verification.progress(),
            "trees": {str(tree): c.to_json() for tree, c in verification.counts.items()},
        }

    @property
    def _path(self) -> Any:
        return self._context.places.state / "verified.json"

    def _load(self) -> dict[str, Json]:
        try:
            value = load_json(self._path)
        except (ValueError, OSError, EverupError):
            return {}
        return value if isinstance(value, dict) else {}
