"""Jobs that prove the other servers' data equal, and have repaired what is not: verify and sync.

What enters: a path or none. What leaves: a job that ends with what was proven, or with what was
different. Called by the service on the active server. Neither changes a role, so they run beside
whatever else is asked for. What is known of single files afterwards: `file_states`.
"""

import asyncio
import time
from typing import Any

from everup.agent.file_states import ServerState, path_states, server_states, tree_view
from everup.agent.jobs import Job
from everup.agent.parts import Parts
from everup.errors import BadInput, DeadlinePassed, EverupError, Refused, error_from_json
from everup.model.words import count_text

Json = dict[str, Any]

ASK_MS = 5_000
COUNT_MS = 20_000
POLL_S = 0.3
AWAY_S = 10.0
"""No other server is connected for so long: it does not come back by itself in a moment."""
WAIT_MS_MAX = 24 * 3_600_000
ROUNDS_MAX = 3
"""Verified, repaired, verified: more rounds would only hide a disk that goes on failing."""


class Proving:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def verify(self, job: Job, path: str | None, gentle: bool) -> None:
        """Prove that everything below `path` is equal; what differs fails the job by name."""
        results = await self._verified(job, path, gentle)
        different = _different(results)
        job.result = {"servers": results}
        if different:
            names = ", ".join(self._names(results))
            raise EverupError(
                f"{count_text(different, 'object')} differed and will be repaired: {names}",
                remedy="everup status --wait synchronized, then everup verify again; "
                "if it comes back, check the disks",
                code="different",
            )
        job.say(equal_sentence(results))

    async def sync(self, job: Job, path: str | None, allow_removals: bool) -> None:
        """Bring the other servers to what this one has, and prove it."""
        if allow_removals:
            await self._allow_removals(job)
        repaired = 0
        for _ in range(ROUNDS_MAX):
            await self._wait_in_sync(job)
            results = await self._verified(job, path, gentle=False)
            if not _different(results):
                job.result = {"servers": results, "repaired": repaired}
                more = f"; {count_text(repaired, 'object')} repaired" if repaired else ""
                job.say(equal_sentence(results) + more)
                return
            repaired += _different(results)
            await self._wait_repair_begun()
        raise EverupError(
            f"after {ROUNDS_MAX} repairs objects are still different: "
            + ", ".join(self._names(results)),
            remedy="check the disks of both servers",
            code="different",
        )

    def report(self) -> Json:
        """What is known of every protected path on every other server."""
        verify = self._answer().get("verify") or {}
        trees = self._parts.membership.settings.current.protect
        return {
            "running": verify.get("running") or {},
            "scheduled": verify.get("scheduled") is True,
            "paths": path_states(trees, self._states()),
            "last": {
                server: {k: v for k, v in result.items() if k != "trees"}
                for server, result in (verify.get("results") or {}).items()
            },
        }

    async def tree(self, path: str | None) -> Json:
        """Entry by entry below `path`: how many objects are synchronized on each server."""
        trees = self._parts.membership.settings.current.protect
        if path is None:
            found = {f"{tree.id}": "" for tree in trees}
        else:
            found = self._trees(path)
        counts = {}
        for tree_id, below in found.items():
            counts[int(tree_id)] = await self._parts.replicator.call(
                "count", wait_ms=COUNT_MS, tree=int(tree_id), path=below
            )
        return tree_view(trees, found, counts, self._states())

    def _answer(self) -> Json:
        """The replicator's last word."""
        return self._parts.world.answers.get("replicator", {})

    def _states(self) -> list[ServerState]:
        keeper = self._parts.world.answers.get("keeper", {})
        return server_states(self._answer(), keeper)

    # --- steps

    async def _verified(self, job: Job, path: str | None, gentle: bool) -> dict[str, Json]:
        asked: Json = {"gentle": gentle}
        if path is not None:
            asked["trees"] = self._trees(path)
        answer = await self._parts.replicator.call("verify", wait_ms=COUNT_MS, **asked)
        number = int(answer["number"])
        job.say("comparing every object, while the applications go on")
        deadline = time.monotonic() + WAIT_MS_MAX / 1000
        while time.monotonic() < deadline:
            status = await self._parts.replicator.call("status", wait_ms=ASK_MS)
            verify = status.get("verify") or {}
            running = verify.get("running") or {}
            if not running:
                return _ended(verify, number)
            done = sum(int(each["bytes"]) for each in running.values())
            rate = sum(int(each["rate_bytes_per_s"]) for each in running.values())
            job.advance(done, 0, "bytes", rate=rate)
            await asyncio.sleep(POLL_S)
        raise DeadlinePassed("the verification did not end")

    async def _wait_in_sync(self, job: Job) -> None:
        deadline = time.monotonic() + WAIT_MS_MAX / 1000
        seen = time.monotonic()
        while time.monotonic() < deadline:
            status = await self._parts.replicator.call("status", wait_ms=ASK_MS)
            peers = list(status.get("peers", ()))
            here = [peer for peer in peers if peer["connected"]]
            if here:
                seen = time.monotonic()
            elif peers and time.monotonic() - seen < AWAY_S:
                # A link is away for a moment whenever it begins to compare.
                await asyncio.sleep(POLL_S)
                continue
            elif peers:
                raise Refused(
                    "no other server is connected",
                    remedy="everup status says why",
                    code="no-peer-in-sync",
                )
            if all(peer["in_sync"] for peer in here):
                return
            late = next(peer for peer in here if not peer["in_sync"])
            job.say_once(str(late["sentence"]))
            sync = late.get("sync") or {}
            job.advance(
                int(sync.get("done_bytes") or 0),
                int(sync.get("total_bytes") or 0),
                "bytes",
                rate=int(sync.get("rate_bytes_per_s") or 0),
                left_ms=sync.get("left_ms"),
            )
            await asyncio.sleep(POLL_S)
        raise DeadlinePassed("the other servers did not get in sync")

    async def _wait_repair_begun(self) -> None:
        """The link that compares is out of sync for a moment; do not look before that."""
        for _ in range(20):
            status = await self._parts.replicator.call("status", wait_ms=ASK_MS)
            if not all(peer["in_sync"] for peer in status.get("peers", ())):
                return
            await asyncio.sleep(POLL_S)

    async def _allow_removals(self, job: Job) -> None:
        job.say("the next copy may remove as much as it has to")
        membership = self._parts.membership
        for member in membership.settings.current.servers:
            if member.name != membership.name:
                await membership.peers.forward(member.name, "POST", "/v1/allow-removals", {})

    def _trees(self, path: str) -> dict[str, str]:
        """The trees that lie below `path`, or the one in which it lies. Raises BadInput."""
        found = {}
        for tree in self._parts.membership.settings.current.protect:
            if path == tree.path or tree.path.startswith(path.rstrip("/") + "/"):
                found[str(tree.id)] = ""
            elif path.startswith(tree.path + "/"):
                found[str(tree.id)] = path[len(tree.path) + 1 :]
        if not found:
            known = [tree.path for tree in self._parts.membership.settings.current.protect]
            raise BadInput(
                f"{path} is not protected",
                remedy="protected are " + ", ".join(known) if known else "everup protect PATH",
                code="path-not-protected",
            )
        return found

    def _names(self, results: dict[str, Json]) -> list[str]:
        paths = {str(t.id): t.path for t in self._parts.membership.settings.current.protect}
        named = [
            f"{paths.get(tree, tree)}/{path} on {server}".replace("/ on", " on")
            for server, result in results.items()
            for tree, count in result["trees"].items()
            for path in count["paths"]
        ]
        return named[:5] + ([f"{len(named) - 5} more"] if len(named) > 5 else [])


def _ended(verify: Json, number: int) -> dict[str, Json]:
    """The results of one verification. Raises the error with which one of them ended."""
    found = verify.get("results") or {}
    results = {server: each for server, each in found.items() if each["number"] == number}
    if not results:
        raise Refused(
            "the verification was broken off: the active role has moved",
            remedy="ask again",
            code="verify-broken-off",
        )
    for server, each in results.items():
        if each["error"] is not None:
            error = error_from_json(each["error"])
            raise EverupError(f"{server}: {error.sentence}", remedy=error.remedy, code=error.code)
    return results


def _different(results: dict[str, Json]) -> int:
    return sum(t["out_of_sync"] for each in results.values() for t in each["trees"].values())


def equal_sentence(results: dict[str, Json]) -> str:
    """What was proven; what was too busy to be compared is not counted with it."""
    parts = []
    for server, each in results.items():
        busy = sum(t["unchecked"] for t in each["trees"].values())
        more = f" ({busy} more were written all the time and are unchecked)" if busy else ""
        objects = count_text(each["objects"] - busy, "object")
        parts.append(f"{objects} proven equal on {server}{more}")
    return "; ".join(parts)
