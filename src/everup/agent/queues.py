"""How much of the data is on its way, on this server and on all of them.

What enters: the last answers of guard and replicator, sizes of directories. What leaves: JSON for
people: per peer what is not yet acknowledged, what is received and not yet applied, how full the
room for it is. Called by the API; the disk is looked at, nothing is counted along the way.
"""

import os
from pathlib import Path
from typing import Any

from everup.agent.parts import Parts

Json = dict[str, Any]

NOTHING: Json = {"bytes": 0, "operations": 0, "oldest_ms": 0}


def own_queues(parts: Parts) -> Json:
    """What this server has to send, to apply, and to keep. Blocks for a few milliseconds."""
    replicator = parts.world.answers.get("replicator", {})
    guard = parts.world.answers.get("guard", {})
    settings, places = parts.membership.settings.current, parts.places
    journal = guard.get("journal") or {}
    used = int(journal.get("bytes") or 0)
    quota = int(journal.get("quota_bytes") or settings.journal_quota_bytes)
    room = os.statvfs(places.var)
    return {
        "server": parts.membership.name,
        "role": str(replicator.get("role") or "unknown"),
        "send": [_send(peer) for peer in replicator.get("peers", ())],
        "receive": replicator.get("receive_queue") or NOTHING,
        "apply_error": replicator.get("apply_error"),
        "proven": replicator.get("proven"),
        "disk": {
            "journal_bytes": used,
            "journal_quota_bytes": quota,
            "journal_percent": used * 100 // max(quota, 1),
            "journal_state": str(journal.get("state") or "unknown"),
            "receive_bytes": _size(places.receive),
            "divergence_bytes": _size(places.divergence),
            "free_bytes": room.f_bavail * room.f_frsize,
        },
    }


def _send(peer: Json) -> Json:
    return {
        "to": peer["server"],
        "connected": peer["connected"],
        "in_sync": peer["in_sync"],
        "supplied_by": peer.get("supplied_by", ""),
        "queue": peer.get("send_queue") or NOTHING,
        **throughput(peer),
        "sentence": peer.get("sentence", ""),
    }


def throughput(peer: Json) -> Json:
    """How fast data goes to a peer, from the replicator's status of it."""
    link = peer.get("link") or {}
    return {
        "bytes_written": peer.get("bytes_written", 0),
        "bytes_sent": peer.get("bytes_sent", 0),
        "written_bytes_per_s": peer.get("written_bytes_per_s", 0),
        "sent_bytes_per_s": peer.get("sent_bytes_per_s", 0),
        "saving": peer.get("saving"),
        "level": link.get("level"),
        "link_bytes_per_s": link.get("link_bytes_per_s", 0),
        "cap_bytes_per_s": link.get("cap_bytes_per_s", 0),
    }


def _size(directory: Path) -> int:
    total = 0
    for base, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(base, name)).st_size
            except OSError:
                continue
    return total
