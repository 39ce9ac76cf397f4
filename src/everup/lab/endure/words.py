"""A round's fault as a person tells it.

What enters: a plan and the cast. What leaves: half a sentence. Pure.
"""

from everup.lab.endure.plan import Plan
from everup.lab.endure.scene import Cast


def tell(plan: Plan, cast: Cast) -> str:
    """For example `primary (active) loses power for 6.3 s`."""
    values, kind = plan.values, plan.kind
    active, passive = f"{cast.active} (active)", f"{cast.passive} (passive)"
    who = {"active": active, "passive": passive, "witness": "the witness"}
    subject = next((who[role] for role in who if kind.endswith(role)), "")
    if kind in ("power-cut-active", "power-cut-passive", "power-cut-witness"):
        return f"{subject} loses power for {values['off_s']:.1f} s"
    if kind.startswith("shutdown"):
        return f"{subject} is shut down in order, and is off for {values['off_s']:.1f} s"
    if kind.startswith("reboot"):
        return f"{subject} is switched off and on at once"
    if kind in ("freeze-active", "freeze-passive"):
        return f"{subject} stands still for {values['freeze_s']:.1f} s"
    if kind.startswith("kill"):
        what = ", ".join(values.get("processes", ["everything"] * len(values["gaps_s"])))
        return f"kill -9 on {subject}: {what}"
    if kind.startswith("isolate"):
        return f"{subject} is cut off{_way(values['one_way'])} for {values['cut_s']:.1f} s"
    if plan.parts:
        first, second = plan.parts
        return f"{tell(first, cast)}; {second.after_s:.1f} s later {tell(second, cast)}"
    told = {
        "both-off": lambda: _both_off(plan, who),
        "all-off": lambda: f"everything loses power; back come {', '.join(values['on'])}",
        "freeze-short": lambda: (
            f"{who[values['who']]} stands still for {values['freeze_s'] * 1000:.0f} ms"
        ),
        "cut": lambda: f"{cast.link(values['link'])} is cut for {values['cut_s']:.1f} s",
        "cut-one-way": lambda: (
            f"{cast.link(values['link'])} is cut{_way(values['one_way'])}"
            f" for {values['cut_s']:.1f} s"
        ),
        "flap": lambda: f"{cast.link(values['link'])} flaps {len(values['cut_s'])} times",
        "slow-channel": lambda: (
            f"the channel has {values['rate_mbit']} Mbit/s and +{values['delay_ms']} ms"
            f" for {values['slow_s']:.1f} s"
        ),
        "full-disk-passive": lambda: f"the disk of {passive} is full for {values['full_s']:.1f} s",
        "switchover": lambda: f"switchover from {cast.active} to {cast.passive}",
        "switchover-in-resync": lambda: f"switchover while {cast.passive} is resynchronized",
        "power-cut-in-switchover": lambda: (
            f"{who[values['who']]} loses power {values['into_s']:.2f} s into a switchover"
        ),
        "power-cut-active-in-resync": lambda: (
            f"{active} loses power while {cast.passive} is resynchronized"
        ),
        "stale-first": lambda: f"both off, and {cast.passive}, which is stale, comes back first",
    }
    return told[kind]()


def _way(one_way: str) -> str:
    return {"": "", "in": " for what it should hear", "out": " for what it says"}[one_way]


def _both_off(plan: Plan, who: dict[str, str]) -> str:
    values = plan.values
    first, on = who[values["first_off"]], who[values["first_on"]]
    gap, back = values["between_s"], values["on_between_s"]
    together = "together" if not gap else f"{first} {gap:.1f} s earlier"
    return f"both lose power ({together}); {on} is back {back:.1f} s before the other"
