"""The verbs of guard.sock.

What enters: requests of the agent and the replicator. What leaves: answers, or a stream of batch
ends. Called by the worker's control server; see `Guard` for what they do.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from everup.capture import gate
from everup.capture.behind import load_behind, news
from everup.capture.followers import latest
from everup.capture.gate import ArmedTree
from everup.capture.guard import Guard, OpenRequest
from everup.capture.order import Policy
from everup.capture.protocol import HAS_RESEND
from everup.errors import BadInput, Refused
from everup.journal.segment import list_segments
from everup.model.position import position_or_none
from everup.wire.local import Reply, Stream

FOLLOW_IDLE_S = 5.0
EVENTS_STEP_S = 1.0
NEWS_S = 30.0
"""For so long a worker says that it is a new one, to whoever begins to listen."""


class Control:
    """Handler of the control socket."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._began_s = time.monotonic()
        self._verbs: dict[str, Callable[[dict[str, Any]], Reply | Stream]] = {
            "status": self._status,
            "arm": self._arm,
            "disarm": self._disarm,
            "open": self._open,
            "close": self._close,
            "policy": self._policy,
            "acknowledged": self._acknowledged,
            "follow": self._follow,
            "subscribe": self._subscribe,
            "release_segments": self._release_segments,
        }

    def handle(self, verb: str, arguments: dict[str, Any]) -> Reply | Stream:
        """Raises EverupError."""
        known = self._verbs.get(verb)
        if known is None:
            raise BadInput(f"the guard does not know {verb!r}", code="unknown-verb")
        try:
            return known(arguments)
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"the arguments of {verb!r} are wrong: {error!r}") from error

    def _status(self, _: dict[str, Any]) -> Reply:
        guard = self._guard
        order = guard.order
        # Before the sequence: who is waited for now is waited for from that sequence on.
        policy = order.policy
        # Before the position: a journal that goes on again stands behind its gap.
        journal = self._journal()
        closed = order.closed
        position = closed.position if closed and guard.sessions else guard.journal.position
        features = [session.slots.features for session in guard.sessions.values()]
        return {
            "gate": "open" if guard.sessions else "closed",
            "epoch": position.epoch,
            "trees": self._trees(),
            "position": position.to_json(),
            "sequence": guard.journal.sequence,
            "journal": journal,
            "mode": policy.mode,
            "must_acknowledge": list(policy.must_acknowledge),
            "waiting_fsyncs": sum(session.syncs.waiting for session in guard.sessions.values()),
            "resend": bool(features) and all(value & HAS_RESEND for value in features),
            "worker": self._worker(),
            "late_answers": order.late_answers,
            "behind": load_behind(guard.memory),
            "memory": self._memory(),
        }

    def _memory(self) -> Reply:
        """Whether the next worker will know all that this one knows."""
        sessions = list(self._guard.sessions.values())
        if not any(session.tree.nodes.alone for session in sessions):
            return {"state": "ok", "sentence": ""}
        sentence = (
            f"the file system of {self._guard.memory} is full: a new worker of the guard would not "
            "know the path of every open file, and look for some"
        )
        return {"state": "full", "sentence": sentence}

    def _worker(self) -> Reply:
        """How often it was replaced since the holder began, and why the last time."""
        keeping = self._guard.keeping
        return {"pid": os.getpid(), "restarts": keeping.restarts, "reason": keeping.reason}

    def _trees(self) -> list[Reply]:
        guard = self._guard
        trees = []
        for tree in gate.load_armed(guard.places):
            session = guard.sessions.get(tree.tree_id)
            trees.append(
                {
                    "id": tree.tree_id,
                    "path": str(tree.path),
                    "lower": str(guard.places.lower(tree.tree_id)),
                    "open_requests": session.open_requests if session else 0,
                    "known_nodes": len(session.tree.nodes) if session else 0,
                    "miscounted_lookups": session.tree.nodes.miscounted if session else 0,
                    "covered": gate.is_open(tree.path) or gate.is_closed(tree.path),
                }
            )
        return trees

    def _journal(self) -> Reply:
        guard = self._guard
        segments = list_segments(guard.places.journal)
        return {
            "bytes": sum(segment.byte_count for segment in segments),
            "segments": len(segments),
            "first_sequence": segments[0].first_sequence if segments else 0,
            "state": guard.order.journal_state,
            "sentence": guard.order.journal_sentence,
            **guard.care.facts(),
        }

    def _arm(self, arguments: dict[str, Any]) -> Reply:
        trees = [ArmedTree(int(t["id"]), Path(t["path"])) for t in arguments["trees"]]
        self._guard.arm(trees)
        return {"trees": self._trees()}

    def _disarm(self, arguments: dict[str, Any]) -> Reply:
        self._guard.disarm([int(number) for number in arguments["trees"]])
        return {"trees": self._trees()}

    def _open(self, arguments: dict[str, Any]) -> Reply:
        group_id = arguments.get("group_id") or self._group_id()
        request = OpenRequest(
            int(arguments["epoch"]),
            position_or_none(arguments.get("parent")),
            str(arguments["server"]),
            str(arguments["boot_id"]),
            str(arguments["reason"]),
            _policy_of(arguments),
            str(group_id),
        )
        return {"position": self._guard.open(request).to_json()}

    def _group_id(self) -> str:
        # Imported here: settings are read once, and a new worker has to be fast.
        from everup.config.load import load_group

        return load_group(self._guard.places.group_settings).group_id

    def _close(self, arguments: dict[str, Any]) -> Reply:
        position, clean = self._guard.close(int(arguments.get("grace_ms", 0)))
        return {"position": position.to_json(), "clean": clean}

    def _policy(self, arguments: dict[str, Any]) -> Reply:
        self._guard.set_policy(_policy_of(arguments))
        return {}

    def _acknowledged(self, arguments: dict[str, Any]) -> Reply:
        self._guard.order.acknowledged(str(arguments["server"]), int(arguments["sequence"]))
        return {}

    def _follow(self, _: dict[str, Any]) -> Stream:
        def on_line(line: Reply) -> None:
            if line.get("verb") == "acknowledged":
                self._acknowledged(line)

        def on_open(connection: socket.socket) -> Callable[[], None]:
            followers = self._guard.order.followers
            followers.add(connection)
            return lambda: followers.remove(connection)

        return Stream(self._batch_ends(), on_line, on_open)

    def _batch_ends(self) -> Iterator[Reply]:
        """The newest batch end once more, now and then: the others come from whoever closes them.
        It also finds out that nobody listens any more."""
        order = self._guard.order
        while True:
            yield latest(order.closed, order.journal_state)
            time.sleep(FOLLOW_IDLE_S)

    def _subscribe(self, _: dict[str, Any]) -> Stream:
        return Stream(self._events())

    def _events(self) -> Iterator[Reply]:
        """What people should hear of, and a line now and then."""
        memory = self._guard.memory
        told = load_behind(memory)
        quiet_s = 0.0
        keeping = self._guard.keeping
        if keeping.restarts and time.monotonic() < self._began_s + NEWS_S:
            sentence = f"The guard's worker was replaced: {keeping.reason}."
            yield {"event": "guard-worker-replaced", "severity": "warning", "sentence": sentence}
        while True:
            time.sleep(EVENTS_STEP_S)
            quiet_s += EVENTS_STEP_S
            now = load_behind(memory)
            sentence = news(told, now)
            told = now
            if sentence:
                yield {"event": "written-behind", "severity": "warning", "sentence": sentence}
            elif quiet_s >= FOLLOW_IDLE_S:
                quiet_s = 0.0
                yield {"event": "alive"}

    def _release_segments(self, arguments: dict[str, Any]) -> Reply:
        """Delete segments that hold nothing behind `up_to_sequence`; the newest one stays."""
        up_to = int(arguments["up_to_sequence"])
        if up_to < 0:
            raise Refused("up_to_sequence is negative", code="bad-sequence")
        self._guard.care.set_quota(int(arguments.get("quota_bytes", 0)))
        needed_after = self._guard.checkpoints.needed_after
        if needed_after is not None and not self._guard.care.over_quota():
            up_to = min(up_to, needed_after)
        segments = list_segments(self._guard.places.journal)
        removed = 0
        for segment, following in pairwise(segments):
            if following.first_sequence > up_to + 1:
                break
            segment.path.unlink()
            removed += 1
        return {"removed": removed}


def _policy_of(arguments: dict[str, Any]) -> Policy:
    mode = arguments["mode"]
    if mode not in ("async", "durable"):
        raise BadInput(f"unknown mode {mode!r}", code="bad-mode")
    return Policy(mode, tuple(str(name) for name in arguments.get("must_acknowledge", ())))
