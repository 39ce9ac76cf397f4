"""The keeper's status as JSON.

What enters: the protocol, settings and counters. What leaves: the answer to verb `status`. Called
by the process in its loop.
"""

from typing import Any

from everup.keeper.channels import Counts
from everup.keeper.protocol import Keeper
from everup.keeper.settings import KeeperSettings

MS = 1_000_000


def status(keeper: Keeper, settings: KeeperSettings, counts: Counts, now_ns: int) -> dict[str, Any]:
    """Everything but what only the process knows (scheduling, address, problem)."""
    known, lease, desk = keeper.known, keeper.lease, keeper.desk
    reachable = keeper.peers.reachable()
    held = lease is not None and lease.deadline_ns > now_ns
    holder, holder_epoch = keeper.peers.holder()
    if lease is not None and held:
        holder, holder_epoch = settings.server, lease.epoch
    return {
        "server": settings.server,
        "incarnation": desk.run,
        "promised_epoch": desk.voter.state.promised,
        "highest_epoch_seen": desk.epoch_seen,
        "holder": holder,
        "holder_epoch": holder_epoch,
        "lease": {
            "held": held,
            "epoch": lease.epoch if lease is not None else 0,
            "expires_in_ms": max(0, (lease.deadline_ns - now_ns) // MS) if lease else 0,
        },
        "standing": keeper.standing.attempt is not None,
        "record": None if known is None else known.record.to_json(),
        "committed": known is not None and known.committed,
        "previous": known.previous.to_json() if known is not None and known.previous else None,
        "granted": _granted(keeper, now_ns),
        "peers": [_peer(keeper, peer.name, peer.addresses, now_ns) for peer in settings.peers],
        "quorum_reachable": known is not None and known.quorum(reachable | {settings.server}),
        "permission_left_ms": max(0, (keeper.holding.permitted_until_ns - now_ns) // MS),
        "datagrams": {
            "sent": counts.sent,
            "received": counts.received,
            "refused": counts.refused,
            "send_errors": counts.send_errors,
            "last_problem": counts.reason,
        },
    }


def _granted(keeper: Keeper, now_ns: int) -> dict[str, Any]:
    """To whom this server's vote is given now, and for how long."""
    grant = keeper.desk.voter.grant
    if grant is None or grant.until_ns <= now_ns:
        return {"holder": "", "epoch": 0, "left_ms": 0}
    left_ms = (grant.until_ns - now_ns) // MS
    return {"holder": grant.holder, "epoch": grant.epoch, "left_ms": left_ms}


def _peer(keeper: Keeper, name: str, addresses: tuple[str, ...], now_ns: int) -> dict[str, Any]:
    peer = keeper.peers.peers.get(name)
    beat = peer.beat if peer is not None else None
    return {
        "server": name,
        "reachable": name in keeper.peers.reachable(),
        "heard_ms_ago": (now_ns - peer.heard_ns) // MS if peer is not None and beat else None,
        "addresses": list(addresses),
        "facts": beat.facts if beat is not None else {},
        "holding": beat.holding if beat is not None else 0,
        "promised": beat.promised if beat is not None else 0,
    }
