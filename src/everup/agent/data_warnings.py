"""What is worth a warning about this server's data: its logs, writes behind mounts, memory.

What enters: the last status answers of guard and replicator, the quota. What leaves: warnings of
`everup status`. Called by `status_view`. Pure; an answer that is missing warns of nothing here.
"""

from typing import Any

from everup.replicate.quota import quota_level, quota_sentence

Json = dict[str, Any]


def data_warnings(server: str, guard: Json, replicator: Json, quota_bytes: int) -> list[Json]:
    """Warnings about the data of `server`; `quota_bytes` holds for each of the two logs."""
    journal = guard.get("journal") or {}
    received = replicator.get("receive_queue") or {}
    found = (
        _put_aside(server, journal.get("aside")),
        _dirty(server, journal.get("dirty")),
        _full(server, "journal", _count(journal, "bytes"), quota_bytes),
        _full(server, "receive log", _count(received, "bytes"), quota_bytes),
        _behind(server, guard.get("behind") or {}),
        _memory(server, guard.get("memory") or {}),
    )
    return [warning for warning in found if warning is not None]


def _put_aside(server: str, aside: Json | None) -> Json | None:
    if not aside:
        return None
    sentence = f"the journal of {server} was put aside as {aside['path']}: {aside['sentence']}"
    remedy = (
        "nothing to do: the servers compare their data; the old journal is kept to be looked at"
    )
    return _warning("journal-aside", sentence, remedy)


def _dirty(server: str, dirty: Json | None) -> Json | None:
    if not dirty:
        return None
    remedy = "once the journal can be written again this is compared by itself"
    return _warning("journal-dirty", f"{server}: {dirty['sentence']}", remedy)


def _full(server: str, log: str, used_bytes: int, quota_bytes: int) -> Json | None:
    if not quota_level(used_bytes, quota_bytes):
        return None
    sentence = quota_sentence(f"the {log} of {server}", used_bytes, quota_bytes)
    remedy = "everup queue says what is waited for; or raise journal_quota_bytes"
    return _warning(f"{log.replace(' ', '-')}-quota", sentence, remedy)


def _behind(server: str, behind: Json) -> Json | None:
    count = _count(behind, "count")
    if not count:
        return None
    last = (behind.get("last") or [{}])[-1]
    who = f"; the last one: {last['path']} by {last['command'] or 'a process'}" if last else ""
    times = "once" if count == 1 else f"{count} times"
    sentence = f"{server} was written to behind the mounts {times} since it was started{who}"
    return _warning("behind-mount", sentence, "everup sync compares and brings the others up")


def _memory(server: str, memory: Json) -> Json | None:
    if memory.get("state", "ok") == "ok":
        return None
    remedy = f"make room there on {server}; it is used again from the next opening of the gate on"
    return _warning("guard-memory", f"{server}: {memory['sentence']}", remedy)


def _count(value: Json, name: str) -> int:
    return int(value.get(name) or 0)


def _warning(identifier: str, sentence: str, remedy: str) -> Json:
    return {"id": identifier, "sentence": sentence, "remedy": remedy}
