"""The replicator's roles and the verbs of replicator.sock.

What enters: verbs of the agent. What leaves: their answers, and a running source or target. The
role is not stored here: after a restart the process is idle until the agent says again what it is
to be, but a seal (the promise of an epoch) is durable and holds at once.
"""

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from everup.config.load import load_group
from everup.errors import BadInput, Refused
from everup.model.position import Position
from everup.places import PEER_STREAM_PORT
from everup.replicate.context import Context
from everup.replicate.counting import check_paths, count_below
from everup.replicate.link import PeerLink
from everup.replicate.receivelog import ReceiveLog
from everup.replicate.receiving import Receiver
from everup.replicate.seal import Seal
from everup.replicate.source import Peer, Source
from everup.replicate.suspects import forget_suspects
from everup.replicate.synctarget import SyncTarget
from everup.replicate.tails import fetch_tails
from everup.replicate.treestate import load_tree_state
from everup.replicate.verifying import Verifying
from everup.system.files import load_json, sync_directory
from everup.wire.local import Reply, Stream

DRAIN_MS = 30_000


class Replicator:
    """One per server. Verbs may come from several threads; one changes the role at a time."""

    def __init__(self, context: Context, address: str = "", port: int = PEER_STREAM_PORT) -> None:
        self._context = context
        self._address = address
        self._port = port
        self._seal = Seal(context.seal_path, context.door)
        self._lock = threading.Lock()
        self._receiver: Receiver | None = None
        self._sync: SyncTarget | None = None
        self._source: Source | None = None
        self._verifying = Verifying(context, self._links)
        self._verbs: dict[str, Callable[[dict[str, Any]], Reply]] = {
            "status": self._status,
            "source": self._become_source,
            "target": self._become_target,
            "seal": self._promise,
            "drain": self._drain,
            "stop": self._stop_role,
            "reload": self._reload,
            "allow_removals": self._allow_removals,
            "compare": self._compare,
            "verify": self._verify,
            "count": self._count,
        }

    def handle(self, verb: str, arguments: dict[str, Any]) -> Reply | Stream:
        """Called by the control server. Raises BadInput for an unknown verb or a bad argument."""
        if verb == "subscribe":
            return Stream(self._context.events.subscribe())
        action = self._verbs.get(verb)
        if action is None:
            raise BadInput(f"the replicator does not know the verb {verb!r}")
        try:
            return action(arguments)
        except (KeyError, TypeError, ValueError) as problem:
            raise BadInput(f"{verb}: an argument is missing or wrong: {problem}") from problem

    def close(self) -> None:
        with self._lock:
            self._to_idle()

    def _to_idle(self) -> None:
        if self._source is not None:
            self._verifying.stop()
            self._source.stop()
            self._source = None
        if self._receiver is not None:
            self._receiver.stop()
            self._receiver = self._sync = None

    def _become_source(self, arguments: dict[str, Any]) -> Reply:
        epoch = int(arguments["epoch"])
        peers = [
            Peer(str(entry["server"]), tuple(map(str, entry["addresses"])))
            for entry in arguments["peers"]
        ]
        self._take_settings()
        with self._lock:
            if epoch < self._seal.epoch:
                raise Refused(
                    f"epoch {self._seal.epoch} has been promised, {epoch} is over",
                    code="sealed-epoch",
                )
            if self._source is not None and self._source.epoch == epoch:
                self._source.set_peers(peers)
                return {}
            self._to_idle()
            self._seal.promise(epoch)
            # A source is not in the middle of a copy: what it writes now is known to nobody.
            forget_suspects(self._context.places.state)
            sync_directory(self._context.places.state)
            self._source = Source(self._context, epoch, self._port)
            self._source.start(peers)
        return {}

    def _become_target(self, arguments: dict[str, Any]) -> Reply:
        del arguments
        self._take_settings()
        with self._lock:
            if self._receiver is not None:
                return {}
            self._to_idle()
            sync = SyncTarget(self._context)
            receiver = Receiver(self._context, self._address, self._port, self._seal, sync.serve)
            sync.attach(receiver)
            receiver.start()
            self._receiver, self._sync = receiver, sync
        return {}

    def _stop_role(self, arguments: dict[str, Any]) -> Reply:
        del arguments
        with self._lock:
            self._to_idle()
        return {}

    def _promise(self, arguments: dict[str, Any]) -> Reply:
        epoch = int(arguments["epoch"])
        with self._lock:
            if self._receiver is not None:
                position = self._receiver.target.seal(epoch)
            else:
                if self._source is not None and self._source.epoch < epoch:
                    self._to_idle()
                self._seal.promise(epoch)
                position = self._position_at_rest()
        return {"position": position.to_json() if position else None}

    def _position_at_rest(self) -> Position | None:
        """Where this server stands while the process has no role: the end of what it received."""
        state = load_tree_state(self._context.places.tree)
        if state.position is None:
            return None
        log = ReceiveLog(self._context.places.receive, self._context.door)
        end = log.open()
        log.close()
        return end if end is not None and log.holds(state.position) else state.position

    def _drain(self, arguments: dict[str, Any]) -> Reply:
        deadline_ms = int(arguments.get("deadline_ms", DRAIN_MS))
        receiver = self._receiver
        if receiver is None:
            raise Refused("this server is not receiving", code="not-target")
        ahead = [str(server) for server in arguments.get("ask") or ()]
        fetch_tails(self._context, receiver.target, self._seal.epoch, ahead, self._port)
        return {"position": receiver.target.drain(deadline_ms).to_json()}

    def _reload(self, arguments: dict[str, Any]) -> Reply:
        del arguments
        self._take_settings()
        return {}

    def _take_settings(self) -> None:
        before = self._context.group
        self._context.group = load_group(self._context.places.group_settings)
        source = self._source
        if source is not None and before.protect != self._context.group.protect:
            for link in source.links:
                link.greet_again()

    def _allow_removals(self, arguments: dict[str, Any]) -> Reply:
        del arguments
        if self._sync is None:
            raise Refused("this server is not receiving", code="not-target")
        self._sync.allow_removals()
        return {}

    def _compare(self, arguments: dict[str, Any]) -> Reply:
        """Compare every peer's trees with ours now, and repair what is different."""
        del arguments
        for link in self._links():
            link.compare()
        return {}

    def _verify(self, arguments: dict[str, Any]) -> Reply:
        """`trees`: {id: path below it}, all of them when absent; `gentle`: slowly; `scheduled`:
        nobody asked for it."""
        named = arguments.get("trees")
        whole = {tree.id: b"" for tree in self._context.group.protect}
        if named is not None:
            whole = {int(tree): os.fsencode(str(path)) for tree, path in named.items()}
        self._links()
        check_paths(self._context, whole)
        number = self._verifying.start(
            whole,
            slow=bool(arguments.get("gentle")),
            scheduled=bool(arguments.get("scheduled")),
        )
        return {"number": number}

    def _count(self, arguments: dict[str, Any]) -> Reply:
        """How much lies below a path of a tree; may take seconds."""
        return count_below(
            self._context, int(arguments["tree"]), os.fsencode(str(arguments["path"]))
        )

    def _links(self) -> Sequence[PeerLink]:
        """Raises Refused when this server is not the source."""
        source = self._source
        if source is None:
            raise Refused(
                "this server is not active", remedy="ask the active one", code="not-source"
            )
        return source.links

    # status

    def _status(self, arguments: dict[str, Any]) -> Reply:
        del arguments
        receiver, source = self._receiver, self._source
        value: dict[str, Any] = {
            "role": "source" if source else "target" if receiver else "idle",
            "sealed_epoch": self._seal.epoch,
            "received": None,
            "applied": None,
            "tree": load_tree_state(self._context.places.tree).to_json(),
            "sync": {"state": "none"},
            "in_sync": False,
            "consistent": False,
            "peers": [],
            "apply_error": None,
            "proven": _load_proven(self._context),
        }
        if receiver is not None:
            value |= self._target_status(receiver)
        if source is not None:
            value["peers"] = source.status()
            value["in_sync"] = value["consistent"] = True
            value["verify"] = self._verifying.status()
            value["sync"] = next((p["sync"] for p in value["peers"] if p["sync"]), value["sync"])
        return value

    def _target_status(self, receiver: Receiver) -> dict[str, Any]:
        target = receiver.target
        applier = target.applier
        error = target.error
        received = target.position
        applied = applier.applied if applier else None
        sync = self._sync
        return {
            "received": received.to_json() if received else None,
            "applied": applied.to_json() if applied else None,
            "sync": sync.status() if sync else {"state": "none"},
            "in_sync": target.in_sync and target.consistent and error is None,
            "consistent": target.consistent,
            "receive_queue": target.queue(),
            "apply_error": error.to_json() if error else None,
        }


def _load_proven(context: Context) -> Any:
    try:
        return load_json(context.proven_path)
    except ValueError:
        return None
