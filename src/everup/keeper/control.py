"""The verbs of keeper.sock.

What enters: requests in threads of the control socket. What leaves: answers, once the loop has
carried them out. Called by the agent; `everup` never talks to the keeper itself.
"""

import json
from typing import TYPE_CHECKING, Any

from everup.errors import BadInput
from everup.keeper.mailbox import Answer
from everup.keeper.messages import FACTS_BYTES_MAX
from everup.wire.local import Reply, Stream

if TYPE_CHECKING:
    from everup.keeper.service import Service

SHORT_S = 2.0
DEADLINE_MS = 5000
DEADLINE_MS_MAX = 600_000


class Control:
    def __init__(self, service: "Service") -> None:
        self._service = service
        self._verbs = {
            "status": self._status,
            "permit": self._permit,
            "stand": self._stand,
            "release": self._release,
            "propose": self._propose,
            "public": self._public,
            "reload": self._reload,
        }

    def handle(self, verb: str, arguments: dict[str, Any]) -> Reply | Stream:
        if verb == "subscribe":
            return Stream(self._service.subscribers.add())
        handler = self._verbs.get(verb)
        if handler is None:
            raise BadInput(f"the keeper has no verb {verb!r}", code="unknown-verb")
        return handler(arguments)

    def _in_loop(self, work: Any, seconds: float = SHORT_S) -> Reply:
        answer = Answer()
        self._service.do(answer, work)
        return answer.wait(seconds)

    def _status(self, arguments: dict[str, Any]) -> Reply:
        del arguments
        return self._in_loop(lambda answer: answer.give(self._service.status()))

    def _permit(self, arguments: dict[str, Any]) -> Reply:
        facts = arguments.get("facts", {})
        if not isinstance(facts, dict):
            raise BadInput("facts are not an object")
        cut = cut_to_fit(facts)
        return self._in_loop(lambda answer: self._service.permit(answer, facts, cut))

    def _stand(self, arguments: dict[str, Any]) -> Reply:
        deadline_ms = _deadline_ms(arguments)
        force = arguments.get("force", False) is True
        minimum = int(arguments.get("minimum_epoch", 0))
        return self._in_loop(
            lambda answer: self._service.stand(answer, deadline_ms, force, minimum),
            deadline_ms / 1000 + SHORT_S,
        )

    def _release(self, arguments: dict[str, Any]) -> Reply:
        del arguments
        return self._in_loop(self._service.release)

    def _propose(self, arguments: dict[str, Any]) -> Reply:
        change = arguments.get("record")
        if not isinstance(change, dict) or not change:
            raise BadInput("propose needs a record with what is to change")
        change = {name: change[name] for name in change if name not in ("version", "epoch")}
        deadline_ms = _deadline_ms(arguments)
        return self._in_loop(
            lambda answer: self._service.propose(answer, change, deadline_ms),
            deadline_ms / 1000 + SHORT_S,
        )

    def _public(self, arguments: dict[str, Any]) -> Reply:
        addresses = arguments.get("addresses", [])
        if not isinstance(addresses, list) or not all(isinstance(a, str) for a in addresses):
            raise BadInput("addresses are not a list of addresses with prefix length")
        interface = str(arguments.get("interface", ""))
        up = arguments.get("up", False) is True
        return self._in_loop(lambda answer: self._service.public(answer, addresses, interface, up))

    def _reload(self, arguments: dict[str, Any]) -> Reply:
        del arguments
        return self._in_loop(self._service.reload)


def cut_to_fit(facts: dict[str, Any]) -> list[str]:
    """Take the longest facts out until they fit into a heartbeat; the names of what was cut.

    The agent lives all the same, so its permission must not depend on the length of a sentence.
    """
    length = {name: len(json.dumps({name: value})) for name, value in facts.items()}
    cut = []
    while sum(length.values()) > FACTS_BYTES_MAX:
        longest = max(length, key=lambda name: length[name])
        cut.append(longest)
        del length[longest], facts[longest]
    return cut


def _deadline_ms(arguments: dict[str, Any]) -> int:
    deadline_ms = int(arguments.get("deadline_ms", DEADLINE_MS))
    if not 0 < deadline_ms <= DEADLINE_MS_MAX:
        raise BadInput(f"deadline_ms {deadline_ms} is not between 1 and {DEADLINE_MS_MAX}")
    return deadline_ms
