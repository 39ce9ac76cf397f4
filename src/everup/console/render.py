"""The parts of the page as HTML, from what the agent says (pure).

What enters: status and events. What leaves: HTML; every text that comes from outside is escaped.
"""

from collections.abc import Iterable
from datetime import datetime
from html import escape
from typing import Any

Json = dict[str, Any]

NOTHING_YET = "unprotected"
"""State of a group that protects nothing: there is no epoch, no queue, and nothing at risk."""
SYNCHRONIZING = ("walking", "copying", "replaying", "proving")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def tone(status: Json | None, trouble: str = "") -> str:
    """good, busy, poor or unknown: the colour of the whole."""
    if status is None or trouble:
        return "unknown"
    state = status.get("state")
    if state == "synchronized":
        return "busy" if status.get("warnings") else "good"
    if state in ("syncing", "changing", "unprotected"):
        return "busy"
    return "poor"


def headline(status: Json | None, trouble: str) -> str:
    """The sentence that a person reads first."""
    if trouble:
        shown = "What is below is the last that was known." if status else ""
        return f"<h1>{escape(_sentence(trouble))}</h1><p>{shown}</p>"
    if status is None:
        return "<h1>Looking at the group&hellip;</h1><p></p>"
    sentence = _sentence(str(status["sentence"]), _names(status))
    facts = f"{escape(str(status['mode']))} mode"
    if status["state"] != NOTHING_YET:
        facts = f"epoch {status['epoch']} &middot; {facts}"
    return f"<h1>{escape(sentence)}</h1><p>{facts}</p>"


def synchronizing(status: Json) -> str:
    """How far a copy is, while one is under way."""
    sync = status.get("sync") or {}
    done, total = sync.get("done_bytes") or 0, sync.get("total_bytes") or 0
    if not total or sync.get("state") not in SYNCHRONIZING:
        return ""
    share = min(done / total, 1.0)
    parts = [f"{size(done)} of {size(total)}"]
    if sync.get("rate_bytes_per_s"):
        parts.append(f"{size(sync['rate_bytes_per_s'])}/s")
    if sync.get("left_ms"):
        parts.append(f"{duration(sync['left_ms'])} left")
    return (
        f'<div class="copying"><span>{escape(_sentence(str(sync.get("sentence") or "")))}</span>'
        f'<i><b style="width:{share:.1%}"></b></i><span>{escape(", ".join(parts))}</span></div>'
    )


def servers(status: Json) -> str:
    """A card for each server, in the order of their identities."""
    cards = [_card(server, status) for server in status["servers"]]
    return f'<div class="servers">{_link(status).join(cards)}</div>'


def facts(status: Json) -> str:
    """Queues, addresses and who may take over, as a quiet list."""
    arbiter, replication = status.get("arbiter") or {}, status.get("replication") or {}
    point = replication.get("recovery_point_ms") or 0
    rows = [
        ("Not yet sent", _queue(replication.get("send_queue")), "changes that only one server has"),
        ("Not yet applied", _queue(replication.get("receive_queue")), "safe on the other server"),
        ("At risk", duration(point) if point else "nothing", "if the active server failed now"),
        ("Automatic failover", *_automatic(arbiter)),
    ]
    if status["state"] == NOTHING_YET:
        rows = []
    witness = status.get("witness")
    if witness:
        reachable = "reachable" if witness.get("reachable") else "not reachable"
        rows.append(("Witness", reachable, str(witness.get("name") or "")))
    paths = status.get("protected")
    if paths is not None:
        rows.append(("Protected", ", ".join(paths) or "nothing yet", ", ".join(status["units"])))
    return '<dl class="facts">' + "".join(_fact(*row) for row in rows) + "</dl>"


def warnings(status: Json) -> str:
    """What is wrong, and what to do about it."""
    items = [
        f"<li><strong>{escape(_sentence(w['sentence']))}</strong>"
        f"<span>{escape(_sentence(w.get('remedy') or ''))}</span></li>"
        for w in status.get("warnings") or []
    ]
    return f'<ul class="warnings">{"".join(items)}</ul>' if items else ""


def events(found: tuple[Json, ...], status: Json | None, missing: tuple[str, ...] = ()) -> str:
    """Newest first; `missing`: the servers that could not be asked."""
    names = _names(status)
    note = ""
    if missing:
        verb = "does" if len(missing) == 1 else "do"
        text = f"{' and '.join(missing)} {verb} not answer: those events are missing here."
        note = f'<p class="empty">{escape(_sentence(text, names))}</p>'
    if not found:
        return note + '<p class="empty">Nothing has happened yet.</p>'
    return note + f'<ol class="events">{"".join(_event(event, names) for event in found)}</ol>'


def duration(ms: float) -> str:
    if ms < 1000:
        return f"{ms:.0f} ms"
    if ms < 60_000:
        return f"{ms / 1000:.1f} s"
    return f"{ms / 60_000:.0f} min"


def size(count: float) -> str:
    value = float(count)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def progress(job: Json, status: Json | None) -> tuple[float | None, str]:
    """How far a job is, from 0 to 1 when that is known, and its sentence."""
    done, total = job["progress"].get("done") or 0, job["progress"].get("total") or 0
    return (done / total if total else None), _sentence(str(job["sentence"]), _names(status))


def _sentence(text: str, names: Iterable[str] = ()) -> str:
    """As a sentence begins, unless it begins with the name of a server."""
    return text if text.split(" ")[0] in set(names) else text[:1].upper() + text[1:]


def _names(status: Json | None) -> list[str]:
    return [str(server["name"]) for server in (status or {}).get("servers", ())]


def _card(server: Json, status: Json) -> str:
    role, name = str(server["role"]), str(server["name"])
    reachable = bool(server["reachable"])
    classes = ["server", role if reachable else "away"]
    addresses = [a["address"] for a in status["public_addresses"] if a["holder"] == name]
    badge = role if reachable else "not reachable"
    rows = []
    if status["state"] != NOTHING_YET:
        rows = [("Data", _sync(server)), ("Position", _position(server.get("position")))]
    if rows and role != "active":
        rows.append(("Applied", _position(server.get("applied"))))
    rows.append(("Clients", "".join(f"<b>{escape(a)}</b>" for a in addresses) or "hidden"))
    listing = "".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for label, value in rows)
    version = escape(str(server.get("version") or ""))
    return (
        f'<article class="{escape(" ".join(classes))}" data-server="{escape(name)}" '
        f'data-role="{escape(role)}"><header><h2>{escape(name)}</h2>'
        f'<span class="role">{escape(badge)}</span></header>'
        f"<dl>{listing}</dl><footer>{escape(str(server['identity']))} &middot; "
        f"{version}</footer></article>"
    )


def _sync(server: Json) -> str:
    sync = escape(str(server["sync"]))
    return f'<i class="sync {sync}"></i>{sync}'


def _position(position: Json | None) -> str:
    if not position:
        return "&ndash;"
    sequence = f"{position.get('sequence') or 0:,}".replace(",", "&thinsp;")
    return f"<small>epoch {position.get('epoch')},</small> {sequence}"


def _link(status: Json) -> str:
    """What flows between two neighbouring cards."""
    names = [s["name"] for s in status["servers"]]
    active = next((i for i, s in enumerate(status["servers"]) if s["role"] == "active"), None)
    flows = [s for s in status["servers"] if s["role"] != "active" and s["reachable"]]
    moving = bool(flows) and active is not None
    direction = "left" if active == len(names) - 1 else "right"
    kind = f"flowing {direction}" if moving else "broken"
    return f'<div class="link {kind}" aria-hidden="true"><span></span></div>'


def _queue(queue: Json | None) -> str:
    if not queue or not queue.get("operations"):
        return "nothing"
    return f"{size(queue['bytes'])} in {queue['operations']} operations"


def _automatic(arbiter: Json) -> tuple[str, str]:
    takers = ", ".join(arbiter.get("may_take_over") or []) or "nobody"
    if arbiter.get("automatic_failover"):
        return "on", f"may take over: {takers}"
    return "off", str(arbiter.get("risk") or f"may take over: {takers}")


def _fact(label: str, value: str, note: str) -> str:
    return (
        f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd>"
        f"<dd class='note'>{escape(note)}</dd></div>"
    )


def _event(event: Json, names: list[str]) -> str:
    severity = escape(str(event["severity"]))
    return (
        f'<li class="{severity}"><time datetime="{escape(str(event["at"]))}">'
        f"{escape(_clock(str(event['at'])))}</time><b>{escape(str(event['server']))}</b>"
        f"<span>{escape(_sentence(str(event['sentence']), names))}</span></li>"
    )


def _clock(at: str) -> str:
    try:
        return datetime.fromisoformat(at).strftime("%d %b %H:%M:%S")
    except ValueError:
        return at
