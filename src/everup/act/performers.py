"""One small class for each kind of action: do it, and ask the system itself whether it is so.

What enters: an action and the tools. What leaves: the position that it ends at, where there is
one; or an EverupError. Called by the executor. Every one may be performed again without harm.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from everup.act.tools import Tools
from everup.errors import EverupError
from everup.model import action as a
from everup.model.position import Position, position_or_none

ASK_MS = 2_000


class NotDone(EverupError):
    """The call returned, but the system does not show its effect."""

    code = "not-done"


class Performer(ABC):
    """Performs one kind of action."""

    kind: ClassVar[type[a.Action]]

    @abstractmethod
    async def perform(self, tools: Tools, action: Any) -> Position | None:
        """Do it and check it; raises EverupError when it is not so afterwards."""


def _expect(fact: bool, sentence: str) -> None:
    if not fact:
        raise NotDone(sentence)


# --- lease and record --------------------------------------------------------------------------


class PerformStand(Performer):
    kind = a.Stand

    async def perform(self, tools: Tools, action: a.Stand) -> None:
        answer = await tools.keeper.call(
            "stand",
            wait_ms=action.stand_ms + ASK_MS,
            deadline_ms=action.stand_ms,
            force=action.force,
            minimum_epoch=action.minimum_epoch,
        )
        reason = str(answer.get("reason") or "no reason was given")
        if not answer.get("granted"):
            raise NotDone(reason, code="not-granted")


class PerformRelease(Performer):
    kind = a.Release

    async def perform(self, tools: Tools, action: a.Release) -> None:
        await tools.keeper.call("release", wait_ms=ASK_MS)
        lease = (await tools.keeper.call("status", wait_ms=ASK_MS)).get("lease") or {}
        _expect(not lease.get("held"), "the keeper still holds the lease")


class PerformPropose(Performer):
    kind = a.Propose

    async def perform(self, tools: Tools, action: a.Propose) -> None:
        changes = {
            "voters": action.voters,
            "may_take_over": action.may_take_over,
            "mode": action.mode,
        }
        record = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in changes.items()
            if value is not None
        }
        answer = await tools.keeper.call(
            "propose",
            wait_ms=action.deadline_ms + ASK_MS,
            deadline_ms=action.deadline_ms,
            record=record,
        )
        reason = str(answer.get("reason") or "no reason was given")
        if not answer.get("committed") and reason != "same":
            raise NotDone(f"the change of the record was not committed: {reason}")


# --- data --------------------------------------------------------------------------------------


class PerformSeal(Performer):
    kind = a.Seal

    async def perform(self, tools: Tools, action: a.Seal) -> Position | None:
        answer = await tools.replicator.call("seal", wait_ms=action.deadline_ms, epoch=action.epoch)
        status = await tools.replicator.call("status", wait_ms=ASK_MS)
        sealed = int(status.get("sealed_epoch") or 0)
        _expect(sealed >= action.epoch, f"epoch {action.epoch} is not sealed")
        return position_or_none(answer.get("position"))


class PerformDrain(Performer):
    kind = a.Drain

    async def perform(self, tools: Tools, action: a.Drain) -> Position | None:
        answer = await tools.replicator.call(
            "drain",
            wait_ms=action.deadline_ms + ASK_MS,
            deadline_ms=action.deadline_ms,
            ask=list(action.ask),
        )
        return position_or_none(answer.get("position"))


class PerformSource(Performer):
    kind = a.BecomeSource

    async def perform(self, tools: Tools, action: a.BecomeSource) -> None:
        peers = [
            {"server": member.name, "addresses": list(member.addresses)}
            for member in tools.group().servers
            if member.name != tools.server
        ]
        await tools.replicator.call(
            "source", wait_ms=action.deadline_ms, epoch=action.epoch, peers=peers
        )


class PerformTarget(Performer):
    kind = a.BecomeTarget

    async def perform(self, tools: Tools, action: a.BecomeTarget) -> None:
        await tools.replicator.call("target", wait_ms=action.deadline_ms)


# --- gate --------------------------------------------------------------------------------------


class PerformArm(Performer):
    kind = a.Arm

    async def perform(self, tools: Tools, action: a.Arm) -> None:
        wanted = [tree for tree in tools.group().protect if tree.id in action.trees]
        status = await tools.guard.call("status", wait_ms=ASK_MS)
        armed = {int(tree["id"]) for tree in status.get("trees", ())}
        surplus = sorted(armed - set(action.trees))
        if surplus:
            await tools.guard.call("disarm", wait_ms=action.deadline_ms, trees=surplus)
        if not wanted:
            await _forget_position(tools)
        for tree in wanted:
            if tree.id not in armed:
                # A server that joins has none of the data yet, often not even the directory.
                Path(tree.path).mkdir(mode=0o700, parents=True, exist_ok=True)
        if wanted:
            trees = [{"id": tree.id, "path": tree.path} for tree in wanted]
            await tools.guard.call("arm", wait_ms=action.deadline_ms, trees=trees)
        status = await tools.guard.call("status", wait_ms=ASK_MS)
        armed = {int(tree["id"]) for tree in status.get("trees", ())}
        _expect(armed == set(action.trees), "the gate does not stand over the protected paths")


async def _forget_position(tools: Tools) -> None:
    """What nothing watches any more is at no position: a later protect compares everything."""
    await tools.replicator.call("stop", wait_ms=ASK_MS)
    tools.tree_state.unlink(missing_ok=True)


class PerformOpen(Performer):
    kind = a.OpenGate

    async def perform(self, tools: Tools, action: a.OpenGate) -> Position | None:
        answer = await tools.guard.call(
            "open",
            wait_ms=action.deadline_ms,
            epoch=action.epoch,
            parent=None if action.parent is None else action.parent.to_json(),
            server=tools.server,
            boot_id=tools.boot_id,
            reason=action.reason,
            mode=action.mode,
            must_acknowledge=list(action.must_acknowledge),
        )
        return position_or_none(answer.get("position"))


class PerformClose(Performer):
    kind = a.CloseGate

    async def perform(self, tools: Tools, action: a.CloseGate) -> Position | None:
        answer = await tools.guard.call(
            "close", wait_ms=action.deadline_ms, grace_ms=action.grace_ms
        )
        status = await tools.guard.call("status", wait_ms=ASK_MS)
        _expect(status.get("gate") == "closed", "the gate is not closed")
        return position_or_none(answer.get("position"))


class PerformPolicy(Performer):
    kind = a.SetPolicy

    async def perform(self, tools: Tools, action: a.SetPolicy) -> None:
        await tools.guard.call(
            "policy",
            wait_ms=ASK_MS,
            mode=action.mode,
            must_acknowledge=list(action.must_acknowledge),
        )


# --- address, flag, units ----------------------------------------------------------------------


async def _public(tools: Tools, wait_ms: int, up: bool) -> None:
    """One call for each interface: the keeper keeps addresses by interface."""
    public = tools.group().public
    for interface in dict.fromkeys(p.interface for p in public):
        addresses = [p.address for p in public if p.interface == interface]
        await tools.keeper.call(
            "public", wait_ms=wait_ms, addresses=addresses, interface=interface, up=up
        )


class PerformAddressUp(Performer):
    kind = a.AddressUp

    async def perform(self, tools: Tools, action: a.AddressUp) -> None:
        await _public(tools, action.deadline_ms, True)


class PerformAddressDown(Performer):
    kind = a.AddressDown

    async def perform(self, tools: Tools, action: a.AddressDown) -> None:
        await _public(tools, action.deadline_ms, False)


class PerformRaiseFlag(Performer):
    kind = a.RaiseFlag

    async def perform(self, tools: Tools, action: a.RaiseFlag) -> None:
        # On tmpfs: after a boot it is gone, which is what a server that just started must be.
        tools.flag.touch(mode=0o644)


class PerformLowerFlag(Performer):
    kind = a.LowerFlag

    async def perform(self, tools: Tools, action: a.LowerFlag) -> None:
        tools.flag.unlink(missing_ok=True)


class PerformHold(Performer):
    kind = a.HoldUnits

    async def perform(self, tools: Tools, action: a.HoldUnits) -> None:
        await tools.units.hold(action.units)


class PerformStart(Performer):
    kind = a.StartUnits

    async def perform(self, tools: Tools, action: a.StartUnits) -> None:
        await tools.units.start(action.units, action.unit_deadline_ms)


class PerformStop(Performer):
    kind = a.StopUnits

    async def perform(self, tools: Tools, action: a.StopUnits) -> None:
        await tools.units.stop(action.units, action.unit_deadline_ms)


PERFORMERS: dict[type[a.Action], Performer] = {
    kind.kind: kind() for kind in Performer.__subclasses__()
}
