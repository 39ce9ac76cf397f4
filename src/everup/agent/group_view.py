"""One view of the whole group, from what this server observes and what its peers say of themselves.

What enters: the settings, the last observation and decision. What leaves: who is active, and every
server's facts. Called by `status_view` and by jobs. Pure.
"""

from dataclasses import dataclass, field
from typing import Any

from everup.config.schema import GroupSettings
from everup.decide.conditions import silent
from everup.model.observation import Observation
from everup.model.role import Role, State
from everup.observe.facts import own_facts

ACTING = ("active", "switching")
BUSY = ("standing", "promoting", "switching", "demoting")

Json = dict[str, Any]


@dataclass(frozen=True)
class ServerView:
    """One server as the group sees it."""

    name: str
    identity: str
    reachable: bool
    facts: Json = field(default_factory=dict)

    @property
    def role(self) -> str:
        return str(self.facts.get("role") or "unknown")

    @property
    def acts(self) -> bool:
        """In service: its gate is open."""
        return self.reachable and self.facts.get("gate") == "open" and self.role in _OPEN


_OPEN = ("active", "switching", "promoting")


@dataclass(frozen=True)
class GroupView:
    server: str
    servers: tuple[ServerView, ...]
    active: ServerView | None
    witness_reachable: bool | None

    def view(self, name: str) -> ServerView | None:
        return next((v for v in self.servers if v.name == name), None)


def see_group(
    settings: GroupSettings,
    s: State,
    o: Observation,
    keeper_answer: Json,
    extra: Json,
    sentence: str,
) -> GroupView:
    """`keeper_answer` is the keeper's own status: it carries the peers' facts in full."""
    facts = {p.get("server"): p.get("facts") or {} for p in keeper_answer.get("peers", ())}
    own = {**own_facts(s, o, sentence=sentence, trouble=""), **extra}
    views = []
    for member in settings.servers:
        mine = member.name == o.server
        heard = mine or not silent(o, member.name) if o.keeper is not None else mine
        views.append(
            ServerView(
                member.name,
                member.identity,
                heard,
                own if mine else facts.get(member.name, {}),
            )
        )
    active = next((view for view in views if view.acts), None)
    witness = settings.witness
    heard_witness = None if witness is None else not silent(o, witness.name)
    if o.keeper is None and witness is not None:
        heard_witness = False
    return GroupView(o.server, tuple(views), active, heard_witness)


def is_busy(view: GroupView) -> bool:
    """Some server is on its way from one role to another."""
    return any(v.reachable and v.role in BUSY for v in view.servers)


def is_active(s: State) -> bool:
    return s.role in (Role.ACTIVE, Role.SWITCHING)
