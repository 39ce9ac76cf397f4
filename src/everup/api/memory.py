"""A small group in memory that answers like an agent.

For tests of the API, the command line and the page, and for looking at the page without a group. A
contract test holds it to the same shapes as the real agent. Roles swap, jobs take a few steps,
nothing is written anywhere.
"""

import asyncio
import itertools
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import IO, Any

from everup import __version__
from everup.agent.bundles import Bundles
from everup.api.facade import Json
from everup.errors import Refused

IDENTITIES = ("primary", "secondary", "tertiary")


class MemoryAgent:
    """`names` are the servers, the first is active; a step of a job takes `step_s`."""

    def __init__(
        self, names: tuple[str, ...] = ("primary", "secondary"), *, step_s: float = 0.02
    ) -> None:
        self.names = names
        self.active: str | None = names[0]
        self.epoch = 1
        self.sequence = 1000
        self.mode = "durable"
        self.paths: list[str] = []
        self.units: list[str] = []
        self.sync = {name: "synchronized" for name in names}
        self.reachable = {name: True for name in names}
        self.warnings: list[Json] = []
        self.copying: Json = {"state": "none"}
        self.kept: Bundles | None = None
        self.calls: list[tuple[Any, ...]] = []
        self._step_s = step_s
        self._events: list[Json] = []
        self._jobs: dict[str, Json] = {}
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self.tell("group-founded", "info", f"{names[0]} is active.")

    def tell(self, kind: str, severity: str, sentence: str) -> None:
        """Add an event."""
        self._events.append(
            {
                "id": len(self._events) + 1,
                "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "kind": kind,
                "severity": severity,
                "server": self.active or "",
                "sentence": sentence,
            }
        )

    async def status(self) -> Json:
        healthy = all(state == "synchronized" for state in self.sync.values())
        sentence = f"{self.active} is active."
        if healthy and len(self.names) > 1:
            sentence += " Every other server has everything and can take over."
        return {
            "group": "shop",
            "epoch": self.epoch,
            "mode": self.mode,
            "state": "synchronized" if healthy else "syncing",
            "sentence": sentence,
            "arbiter": {
                "kind": "voters",
                "holder": self.active,
                "voters": [*self.names, "witness"],
                "may_take_over": list(self.names),
                "expires_in_ms": 800,
                "automatic_failover": healthy,
                "risk": None,
            },
            "public_addresses": [{"address": "192.0.2.10/24", "holder": self.active}],
            "servers": [self._server(i, name) for i, name in enumerate(self.names)],
            "replication": {
                "send_queue": {"bytes": 0, "operations": 0, "oldest_ms": 0},
                "receive_queue": {"bytes": 4096, "operations": 3, "oldest_ms": 12},
                "recovery_point_ms": 0,
            },
            "witness": {"name": "witness", "reachable": True},
            "protected": list(self.paths),
            "units": list(self.units),
            "warnings": self.warnings,
            "sync": self.copying,
        }

    async def events(self, after: int, limit: int) -> list[Json]:
        found = [event for event in self._events if event["id"] > after]
        return found[:limit] if after else found[-limit:]

    async def group_events(self, cursors: dict[str, int], limit: int) -> Json:
        unreachable = [name for name in self.names if not self.reachable[name]]
        after = max(cursors.values(), default=0)
        return {
            "events": await self.events(after, limit),
            "cursors": {self.names[0]: len(self._events)},
            "unreachable": unreachable,
        }

    async def job(self, job_id: str) -> Json:
        try:
            return dict(self._jobs[job_id])
        except KeyError as error:
            raise Refused(f"there is no job {job_id!r}", code="unknown-job") from error

    async def verify(self, path: str | None, gentle: bool) -> Json:
        self.calls.append(("verify", path, gentle))
        return self._begin("verify", "14 objects are proven equal on secondary", lambda: None)

    async def sync_data(self, path: str | None, allow_removals: bool) -> Json:
        self.calls.append(("sync", path, allow_removals))
        return self._begin("sync", "14 objects are proven equal on secondary", self._all_equal)

    async def verified_tree(self, path: str | None) -> Json:
        self.calls.append(("verified_tree", path))
        counts = {"synchronized": 13, "out_of_sync": 0, "unchecked": 1}
        others = {name: counts for name in self.names if name != self.active}
        trees = [
            {
                "path": top,
                "directory": True,
                "objects": 14,
                "servers": others,
                "more": 0,
                "cut": False,
                "entries": [
                    {"path": f"{top}/orders", "directory": True, "objects": 13, "servers": others}
                ],
            }
            for top in ([path] if path else self.paths)
        ]
        return {"trees": trees}

    async def verified(self) -> Json:
        states: list[Json] = [
            {
                "path": path,
                "server": name,
                "state": self.sync[name],
                "at": "2026-01-01T00:00:00Z",
                "position": None,
                "synchronized": 14,
                "out_of_sync": 0,
                "unchecked": 0,
                "different": [],
            }
            for path in self.paths
            for name in self.names
            if name != self.active
        ]
        return {"running": {}, "scheduled": False, "paths": states, "last": {}}

    async def allow_removals(self) -> None:
        self.calls.append(("allow_removals",))

    async def queues(self) -> Json:
        return self._queues(self.names[0])

    async def group_queues(self) -> Json:
        here = [name for name in self.names if self.reachable[name]]
        away = [name for name in self.names if not self.reachable[name]]
        return {"servers": [self._queues(name) for name in here], "unreachable": away}

    async def bundles(self) -> list[Json]:
        return self.kept.short_list() if self.kept is not None else []

    async def group_bundles(self) -> Json:
        return {"bundles": await self.bundles(), "unreachable": []}

    async def bundle(self, name: str) -> Json:
        return self._kept().show(name)

    async def delete_bundle(self, name: str) -> None:
        self._kept().delete(name)

    async def export_bundle(self, name: str, out: IO[bytes]) -> None:
        await asyncio.to_thread(self._kept().export, name, out)

    def _kept(self) -> Bundles:
        if self.kept is None:
            raise Refused("there is no divergence bundle", code="unknown-bundle")
        return self.kept

    def _all_equal(self) -> None:
        self.sync = {name: "synchronized" for name in self.names}

    def _queues(self, name: str) -> Json:
        queue = {"bytes": 4096, "operations": 3, "oldest_ms": 12}
        nothing = {"bytes": 0, "operations": 0, "oldest_ms": 0}
        others = [other for other in self.names if other != name]
        send = {
            "connected": True, "in_sync": True, "queue": queue, "sentence": "stream",
            "bytes_written": 50 << 20, "bytes_sent": 4 << 20, "saving": 12.5, "level": 6,
            "written_bytes_per_s": 1 << 20, "sent_bytes_per_s": 80 << 10,
            "link_bytes_per_s": 1_250_000, "cap_bytes_per_s": 250_000,
        }  # fmt: skip
        return {
            "server": name,
            "role": "source" if name == self.active else "target",
            "send": [{"to": other, **send} for other in others if name == self.active],
            "receive": nothing if name == self.active else queue,
            "apply_error": None,
            "proven": None,
            "disk": {
                "journal_bytes": 1 << 20,
                "journal_quota_bytes": 4 << 30,
                "journal_percent": 0,
                "journal_state": "ok",
                "receive_bytes": 8192,
                "divergence_bytes": 0,
                "free_bytes": 10 << 30,
            },
        }

    async def protect(self, paths: list[str], units: list[str], mode: str | None) -> Json:
        self.calls.append(("protect", paths, units, mode))
        for path in paths:
            if not PurePosixPath(path).is_absolute() or path == "/":
                raise Refused(f"{path} cannot be protected", remedy="choose a directory below it")
        self.mode = mode or self.mode
        self.paths += paths
        self.units += units
        return self._begin("protect", f"protected {', '.join(paths)}", lambda: None)

    async def unprotect(self, paths: list[str]) -> Json:
        self.calls.append(("unprotect", paths))
        self.paths = [path for path in self.paths if path not in paths]
        return self._begin("unprotect", f"no longer protected: {', '.join(paths)}", lambda: None)

    async def switchover(self, to: str | None, dry_run: bool) -> Json:
        self.calls.append(("switchover", to, dry_run))
        others = [name for name in self.names if name != self.active]
        target = to or next((n for n in others if self.sync[n] == "synchronized"), None)
        if target is None or target not in others or self.sync[target] != "synchronized":
            raise Refused(
                f"{target or 'no other server'} cannot become active now",
                remedy="wait until it is synchronized: everup status --wait synchronized",
                code="not-in-sync",
            )
        if dry_run:
            return self._begin("switchover", f"{target} could become active now", lambda: None)
        return self._begin("switchover", f"{target} is active", lambda: self._swap(target))

    async def failover(self, force: bool) -> Json:
        self.calls.append(("failover", force))
        if not force:
            raise Refused("the active server answers", remedy="use everup switchover")
        target = next(name for name in self.names if name != self.active)
        return self._begin("failover", f"{target} is active", lambda: self._swap(target))

    def _server(self, index: int, name: str) -> Json:
        active = name == self.active
        return {
            "name": name,
            "identity": IDENTITIES[index],
            "role": "active" if active else "passive",
            "reachable": self.reachable[name],
            "gate": "open" if active else "closed",
            "position": {
                "epoch": self.epoch,
                "sequence": self.sequence,
                "checksum": "00" * 16,
            },
            "applied": {"epoch": self.epoch, "sequence": self.sequence - (0 if active else 3)},
            "sync": self.sync[name],
            "proven": None
            if active
            else {"epoch": 1, "sequence": 900, "at": "2026-01-01T00:00:00Z"},
            "version": __version__,
        }

    def _swap(self, target: str) -> None:
        before = self.active
        self.active = target
        self.epoch += 1
        self.tell("switchover", "info", f"{target} took over from {before} on request.")

    def _begin(self, kind: str, sentence: str, end: Any) -> Json:
        job: Json = {
            "id": f"j{next(self._numbers)}",
            "kind": kind,
            "state": "running",
            "progress": {"done": 0, "total": 5, "unit": "steps", "rate": 1.0, "left_ms": 5000},
            "sentence": f"{kind} is under way",
        }
        self._jobs[job["id"]] = job
        task = asyncio.get_running_loop().create_task(self._run(job, sentence, end))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return dict(job)

    async def _run(self, job: Json, sentence: str, end: Any) -> None:
        for step in range(1, 6):
            await asyncio.sleep(self._step_s)
            job["progress"] = {**job["progress"], "done": step, "left_ms": 1000 * (5 - step)}
        end()
        job.update(state="done", sentence=sentence, result={})
