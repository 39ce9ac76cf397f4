"""The faults themselves: each takes the scene, the cast and the plan's numbers, and does it.

What enters: a plan. What leaves: a broken (or already healing) lab and, for some acts, sentences
about what did not happen as it must. Whatever an act leaves cut, frozen or without power is
repaired by `Scene.repair` afterwards. Called by `run`.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from everup.errors import DeadlinePassed, EverupError
from everup.lab.endure.plan import Plan, Values
from everup.lab.endure.scene import Cast, Scene, quietly, wait_until

_UNITS = {
    "guard-holder": "everup-guard",
    "replicator": "everup-replicator",
    "keeper": "everup-keeper",
    "agent": "everup-agent",
    "console": "everup-console",
}
_DATA_UNITS = tuple(_UNITS.values())
_WITNESS_UNITS = ["everup-witness", "everup-witness-api"]
_TAKEOVER_S = 12.0
_SHUTDOWN_S = 60.0
_HEARD_AGAIN_S = 40.0
_LEAST_OFF_FOR_A_TAKEOVER_S = 4.0

Findings = list[str]


class Acts:
    """One act per kind of `plan.KINDS`; the method's name is the kind with underscores."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._lab = scene.lab

    def perform(self, plan: Plan, cast: Cast) -> Findings:
        """Do what the plan says; sentences about what went wrong while it was done."""
        act: Callable[[Cast, Values], Findings | None]
        act = getattr(self, plan.kind.replace("-", "_"))
        return act(cast, plan.values) or []

    def two_faults(self, cast: Cast, values: Values) -> None:
        """What a single fault must lead to is not judged here: the other one may forbid it."""
        first, second = values["parts"]
        with ThreadPoolExecutor(2) as pool:
            begun = [pool.submit(self._part, part, cast) for part in (first, second)]
        for each in begun:
            problem = each.exception()
            if problem is not None and not isinstance(problem, EverupError | OSError):
                raise problem

    def _part(self, part: Values, cast: Cast) -> None:
        """A part that finds its server without power has nothing to do, and says so by an error."""
        time.sleep(part["after_s"])
        self.perform(Plan(0, part["kind"], part["values"], 0.0), cast)

    # --- power ----------------------------------------------------------------------------------

    def power_cut_active(self, cast: Cast, values: Values) -> Findings:
        began = time.monotonic()
        self._scene.power_cut(cast.active)
        found = []
        if values["off_s"] >= _LEAST_OFF_FOR_A_TAKEOVER_S:
            found = self._takeover(cast, began)
        _sleep_until(began + values["off_s"])
        self._scene.power_on(cast.active)
        return found

    def _takeover(self, cast: Cast, began: float) -> Findings:
        """A whole group that loses its active must have another one soon."""
        left = began + _TAKEOVER_S - time.monotonic()
        others = self._scene.passives(cast.active)

        def taken() -> bool:
            roles = self._scene.roles()
            return any(roles.get(name) == "active" for name in others)

        try:
            wait_until(f"{' or '.join(others)} takes over", taken, left)
        except DeadlinePassed as late:
            return [late.sentence]
        return []

    def power_cut_passive(self, cast: Cast, values: Values) -> None:
        self._off_and_on(cast.passive, values["off_s"])

    def power_cut_witness(self, cast: Cast, values: Values) -> None:
        self._off_and_on(cast.witness, values["off_s"])

    def _off_and_on(self, name: str, off_s: float) -> None:
        self._scene.power_cut(name)
        time.sleep(off_s)
        self._scene.power_on(name)

    def both_off(self, cast: Cast, values: Values) -> None:
        first = cast.name(values["first_off"])
        second = cast.active if first == cast.passive else cast.passive
        if values["between_s"]:
            self._scene.power_cut(first)
            time.sleep(values["between_s"])
            self._scene.power_cut(second)
        else:
            self._scene.power_cut(first, second)
        time.sleep(values["off_s"])
        first_on = cast.name(values["first_on"])
        self._scene.power_on(first_on)
        time.sleep(values["on_between_s"])
        self._scene.power_on(cast.active if first_on == cast.passive else cast.passive)

    def all_off(self, cast: Cast, values: Values) -> None:
        self._scene.power_cut(cast.active, cast.passive, cast.witness)
        time.sleep(values["off_s"])
        for role in values["on"]:
            self._scene.power_on(cast.name(role))
            time.sleep(values["on_between_s"])

    def reboot_active(self, cast: Cast, _: Values) -> None:
        """Off and on at once: faster than anybody can notice."""
        self._off_and_on(cast.active, 0)

    def reboot_passive(self, cast: Cast, _: Values) -> None:
        self._off_and_on(cast.passive, 0)

    def shutdown_active(self, cast: Cast, values: Values) -> Findings:
        return self._shutdown(cast.active, values["off_s"])

    def shutdown_passive(self, cast: Cast, values: Values) -> Findings:
        return self._shutdown(cast.passive, values["off_s"])

    def _shutdown(self, name: str, off_s: float) -> Findings:
        """In order, as before work on the machine: no mount of ours may make it wait."""
        found = []
        self._scene.run(name, "systemctl", "poweroff", "--no-block", check=False)
        server = self._scene.server(name)
        try:
            wait_until(f"{name} shuts down in order", lambda: not server.powered, _SHUTDOWN_S)
        except DeadlinePassed as late:
            found.append(late.sentence)
            self._scene.power_cut(name)
        time.sleep(off_s)
        self._scene.power_on(name)
        return found

    # --- time -----------------------------------------------------------------------------------

    def freeze_short(self, cast: Cast, values: Values) -> None:
        self._freeze(cast.name(values["who"]), values["freeze_s"])

    def freeze_active(self, cast: Cast, values: Values) -> None:
        self._freeze(cast.active, values["freeze_s"])

    def freeze_passive(self, cast: Cast, values: Values) -> None:
        self._freeze(cast.passive, values["freeze_s"])

    def _freeze(self, name: str, seconds: float) -> None:
        self._lab.freeze(name)
        time.sleep(seconds)
        self._lab.thaw(name)

    # --- processes ------------------------------------------------------------------------------

    def kill_active(self, cast: Cast, values: Values) -> None:
        self._kill(cast.active, values)

    def kill_passive(self, cast: Cast, values: Values) -> None:
        self._kill(cast.passive, values)

    def kill_witness(self, cast: Cast, values: Values) -> None:
        for gap in values["gaps_s"]:
            self._kill_units(cast.witness, _WITNESS_UNITS)
            time.sleep(gap)

    def _kill(self, name: str, values: Values) -> None:
        for process, gap in zip(values["processes"], values["gaps_s"], strict=True):
            if process == "everything":
                self._kill_units(name, list(_DATA_UNITS))
            elif process == "guard-worker":
                status = quietly(lambda: self._scene.ask(name, "guard"))
                if status is not None:
                    self._scene.run(
                        name, "kill", "-KILL", str(status["worker"]["pid"]), check=False
                    )
            else:
                self._kill_units(name, [_UNITS[process]], whom="main")
            time.sleep(gap)

    def _kill_units(self, name: str, units: list[str], whom: str = "all") -> None:
        """A unit that is just being started again has nothing to kill: that is no mistake."""
        words = ["systemctl", "kill", "--signal=KILL", f"--kill-whom={whom}"]
        self._scene.run(name, *words, *units, check=False)

    # --- cables ---------------------------------------------------------------------------------

    def cut(self, cast: Cast, values: Values) -> None:
        link = cast.link(values["link"])
        self._lab.cut(link, values.get("one_way", ""))
        time.sleep(values["cut_s"])
        self._lab.heal(link)

    cut_one_way = cut

    def isolate_active(self, cast: Cast, values: Values) -> None:
        self._isolate(cast.active, values)

    def isolate_passive(self, cast: Cast, values: Values) -> None:
        self._isolate(cast.passive, values)

    def _isolate(self, name: str, values: Values) -> None:
        for link in self._scene.cables(name):
            self._lab.cut(link, values["one_way"])
        time.sleep(values["cut_s"])
        for link in self._scene.cables(name):
            self._lab.heal(link)

    def flap(self, cast: Cast, values: Values) -> None:
        link = cast.link(values["link"])
        for cut_s, whole_s in zip(values["cut_s"], values["whole_s"], strict=True):
            self._lab.cut(link)
            time.sleep(cut_s)
            self._lab.heal(link)
            time.sleep(whole_s)

    def slow_channel(self, _: Cast, values: Values) -> None:
        rate = values["rate_mbit"] * 1_000_000
        self._lab.slow("channel", rate_bits_per_s=rate, delay_ms=values["delay_ms"])
        time.sleep(values["slow_s"])
        self._lab.heal("channel")

    # --- space ----------------------------------------------------------------------------------

    def full_disk_passive(self, cast: Cast, values: Values) -> None:
        self._scene.fill_disk(cast.passive)
        time.sleep(values["full_s"])
        self._scene.clear_disk(cast.passive)

    # --- people ---------------------------------------------------------------------------------

    def switchover(self, _: Cast, __: Values) -> Findings:
        """A whole group does what it is told."""
        refused = self._scene.switchover()
        return [f"The switchover did not happen: {refused}"] if refused else []

    def switchover_in_resync(self, cast: Cast, values: Values) -> None:
        """It may be refused with a reason, or done; either way nothing may be lost."""
        self._rejoin(cast, values)
        self._scene.switchover()

    def power_cut_active_in_resync(self, cast: Cast, values: Values) -> None:
        self._rejoin(cast, values)
        self._off_and_on(cast.active, 1.0)

    def _rejoin(self, cast: Cast, values: Values) -> None:
        """The passive misses some seconds, and has just begun to get them."""
        self._off_and_on(cast.passive, values["alone_s"])
        self._wait_heard(cast)
        time.sleep(values["into_s"])

    def _wait_heard(self, cast: Cast) -> None:
        def heard() -> bool:
            status = quietly(lambda: self._scene.group.status(cast.active)) or {}
            servers = status.get("servers", ())
            return any(s["name"] == cast.passive and s["reachable"] for s in servers)

        wait_until(f"{cast.active} hears {cast.passive}", heard, _HEARD_AGAIN_S)

    def power_cut_in_switchover(self, cast: Cast, values: Values) -> None:
        thread = self._scene.begin_switchover()
        time.sleep(values["into_s"])
        self._off_and_on(cast.name(values["who"]), 3.0)
        thread.join(120)

    def stale_first(self, cast: Cast, values: Values) -> None:
        """The passive stops first and misses transactions, yet gets its power back first."""
        self._scene.power_cut(cast.passive)
        time.sleep(values["alone_s"])
        self._scene.power_cut(cast.active)
        self._scene.power_on(cast.passive)
        time.sleep(values["on_between_s"])
        self._scene.power_on(cast.active)


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))
