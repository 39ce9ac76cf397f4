"""Named predicates about what serves clients (applications, address), and about handing it over.

What enters: one turn's state and observation. What leaves: as in `conditions`, True only when the
fact is known. Called by the table.
"""

from everup.decide import conditions as c
from everup.decide import data as d
from everup.model.observation import Observation
from everup.model.role import Cause, State

HANDOVER_WAIT_MS = 8_000
"""After giving the lease to its partner a server does not stand for this long."""


def flag_up(s: State, o: Observation) -> bool:
    return o.flag


def address_up(s: State, o: Observation) -> bool:
    return o.keeper is not None and set(o.group.public) <= set(o.keeper.present)


def address_missing(s: State, o: Observation) -> bool:
    return o.keeper is not None and not address_up(s, o)


def address_down(s: State, o: Observation) -> bool:
    return o.keeper is not None and not o.keeper.present


def address_not_down(s: State, o: Observation) -> bool:
    return o.keeper is not None and bool(o.keeper.present)


def units_held(s: State, o: Observation) -> bool:
    units = o.units
    return units is not None and {u.name for u in units if u.held} == set(o.group.units)


def units_running(s: State, o: Observation) -> bool:
    return o.units is not None and all(
        unit.state in ("active", "reloading") for unit in o.units if unit.name in o.group.units
    )


def units_stopped(s: State, o: Observation) -> bool:
    return o.units is not None and all(
        unit.state in ("inactive", "failed") for unit in o.units if unit.name in o.group.units
    )


def units_not_held(s: State, o: Observation) -> bool:
    return o.units is not None and not units_held(s, o)


def units_not_running(s: State, o: Observation) -> bool:
    return o.units is not None and not units_running(s, o)


def units_not_stopped(s: State, o: Observation) -> bool:
    return o.units is not None and not units_stopped(s, o)


def start_failed(s: State, o: Observation) -> bool:
    """While the server is shut down systemd refuses every start: that is no failure."""
    return c.failed(s, o, "StartUnits") and not units_running(s, o) and not o.stopping


def stopping(s: State, o: Observation) -> bool:
    """This server is being shut down; its own processes are stopped after the units."""
    return o.stopping


def out_of_service(s: State, o: Observation) -> bool:
    """Nothing of this server reaches a client any more."""
    return not o.flag and address_down(s, o) and d.gate_closed(s, o) and units_stopped(s, o)


# --- switchover --------------------------------------------------------------------------------


def target_of(s: State, o: Observation) -> str:
    """Server that a requested switchover goes to: the one named, else the best that is ready."""
    request = c._asked(o, "switchover")
    if request is None:
        return ""
    wanted = (request.to,) if request.to else o.group.servers
    return next((name for name in wanted if ready_for_switchover(o, name)), "")


def ready_for_switchover(o: Observation, server: str) -> bool:
    found = d.follower(o, server)
    return (
        server != o.server
        and not d.journal_bad(o)
        and server in c.record(o).may_take_over
        and not c.silent(o, server)
        and found is not None
        and found.connected
        and found.in_sync
    )


def switchover_possible(s: State, o: Observation) -> bool:
    return bool(target_of(s, o))


def handed_to_me(s: State, o: Observation) -> bool:
    return bool(giver(o))


def giver(o: Observation) -> str:
    """Peer that gave its lease up for this server and waits for it to stand."""
    for found in o.keeper.peers if o.keeper is not None else ():
        released = o.keeper is not None and o.keeper.holder != found.server
        if found.facts.hand_to == o.server and released and not c.silent(o, found.server):
            return found.server
    return ""


def handed_to_another(o: Observation) -> tuple[str, str]:
    """(who gives the active role up, for whom) when that is not this server; ("", "")."""
    for found in o.keeper.peers if o.keeper is not None else ():
        taker = found.facts.hand_to
        audible = not c.silent(o, found.server) and not c.silent(o, taker)
        if taker not in ("", o.server) and audible:
            return found.server, taker
    return "", ""


def handing_over(s: State, o: Observation) -> bool:
    """This server gave its lease to its partner a moment ago."""
    return s.row == "handed-over" and c.age_ms(s, o) < HANDOVER_WAIT_MS


def handed_in_vain(s: State, o: Observation) -> bool:
    return s.row == "handed-over" and c.age_ms(s, o) >= HANDOVER_WAIT_MS


def switching_too_long(s: State, o: Observation) -> bool:
    return c.age_ms(s, o) > o.group.stop_deadline_ms * max(1, len(o.group.units)) + 20_000


def partner_silent(s: State, o: Observation) -> bool:
    return c.silent(o, s.partner)


def cause_is(*causes: Cause) -> c.Condition:
    return lambda s, o: s.cause in causes
