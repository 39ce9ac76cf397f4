"""What must never be false, whatever the table says.

What enters: one turn's state, observation and decision. What leaves: nothing; a broken promise is
an AssertionError, and the agent performs nothing of that turn. Called by `decide` at every turn
and by the simulator. A check has a name, which is the promise or the step that it protects.
"""

from everup.decide import conditions as c
from everup.decide import data as d
from everup.model import action as a
from everup.model.action import Decision
from everup.model.observation import Observation
from everup.model.role import Cause, Role, State


def check(s: State, o: Observation, decision: Decision) -> None:
    """Raise AssertionError when the decision breaks a promise."""
    for act in decision.actions:
        _single_active(s, o, act)
        _durable(s, o, act)
    _one_change_at_a_time(decision)
    _epoch_never_goes_back(s, decision.state)


def _single_active(s: State, o: Observation, act: a.Action) -> None:
    serving = isinstance(act, a.OpenGate | a.AddressUp | a.RaiseFlag | a.StartUnits)
    if serving:
        assert c.lease_held(s, o), f"{act.key}: only under the lease that this server acts on"
    if isinstance(act, a.OpenGate):
        assert act.epoch == s.epoch == c.held_epoch(o), "the gate opens under the held epoch"
        assert d.sealed(s, o), "the gate opens after the older epochs were sealed"
        assert d.at_end(s, o), "the gate opens when everything received is applied"
    if isinstance(act, a.AddressUp | a.StartUnits):
        assert d.gate_open(s, o), f"{act.key}: clients are let in when the gate is open"
    if isinstance(act, a.Release):
        assert d.gate_closed(s, o), "the lease is released behind a closed gate"
        assert not o.flag, "the lease is released when no unit may be started"


def _durable(s: State, o: Observation, act: a.Action) -> None:
    listed = set(c.record(o).may_take_over) - {o.server}
    if isinstance(act, a.SetPolicy | a.OpenGate):
        promised, durable = c.promised(o)
        missing = promised - set(act.must_acknowledge)
        assert not missing, f"fsync must wait for {set(missing)}: it may take over"
        if durable:
            assert act.mode == "durable", "the record promises durable mode"
    if isinstance(act, a.Propose) and act.may_take_over is not None:
        added = set(act.may_take_over) - listed - {o.server}
        waited = set(o.guard.must_acknowledge) if o.guard is not None else set()
        assert added <= waited, f"{added} is added before fsync waits for it"
    if isinstance(act, a.Stand) and not act.force:
        assert s.cause is Cause.FOUNDING or d.consistent(s, o), (
            "a server without a consistent copy does not stand by itself"
        )


def _one_change_at_a_time(decision: Decision) -> None:
    proposals = sum(isinstance(act, a.Propose) for act in decision.actions)
    assert proposals <= 1, "one change of the record at a time"


def _epoch_never_goes_back(s: State, after: State) -> None:
    if after.role in (Role.PROMOTING, Role.ACTIVE, Role.SWITCHING):
        assert after.epoch >= s.epoch and after.epoch > 0, "epochs only grow"
