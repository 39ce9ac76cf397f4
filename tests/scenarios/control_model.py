"""A group in memory: virtual time, voters, guards, replicators and units, and the real `decide`.

What enters: commands of a scenario. What leaves: a transcript of what the servers did. The promise
`single-active` is checked at every step. The parts: `control_world`, `control_turns`.
"""

from __future__ import annotations

from dataclasses import replace

from control_turns import Turns
from control_world import LEASE_MS, THIRD, TREES, TURN_MS, UNITS, WITNESS, Server, Voter

from everup.model import observation as m


class Group(Turns):
    # --- time

    def run(self, duration_ms: int) -> None:
        end = self.now + duration_ms
        while self.now < end:
            self.now += TURN_MS
            self._beat()
            self._renew()
            for server in self.servers.values():
                if server.up and server.agent:
                    self._finish(server)
                    self.turn(server)
            self._write()
            for server in self.servers.values():
                if server.stream == "source":
                    self._ship(server)
            self.check()

    def check(self) -> None:
        """Promise `single-active`."""
        serving = [
            s.name
            for s in self.servers.values()
            if s.up and s.gate == "open" and s.page[1] > self.now
        ]
        assert len(serving) <= 1, f"two servers acknowledge: {serving}"

    # --- commands

    def command(self, line: str) -> None:
        verb, *words = line.split()
        getattr(self, "_cmd_" + verb.replace("-", "_"))(*words)

    def _cmd_run(self, duration_ms: str) -> None:
        self.run(int(duration_ms))

    def _cmd_protect(self, name: str) -> None:
        server = self.servers[name]
        server.hold = True
        server.units = "inactive"
        self.settings = replace(self.settings, trees=TREES, units=UNITS)
        self.run(1500)
        server.request = m.Request(1, "found")
        server.hold = False
        self.run(100)

    def _cmd_unprotect(self, name: str) -> None:
        self.servers[name].hold = True
        self.run(2000)
        self.settings = replace(self.settings, trees=(), units=())
        self.run(1000)
        self.servers[name].hold = False

    def _cmd_forget_paths(self) -> None:
        self.settings = replace(self.settings, trees=(), units=())

    def _cmd_mode(self, mode: str) -> None:
        self.settings = replace(self.settings, mode=mode)  # type: ignore[arg-type]

    def _cmd_ask(self, name: str, kind: str, *words: str) -> None:
        to = next((w for w in words if w != "force"), "")
        force = "force" in words
        self.servers[name].request = m.Request(2, kind, to, force)  # type: ignore[arg-type]

    def _cmd_power_cut(self, name: str) -> None:
        if name == WITNESS:
            self.witness_up = False
            return
        server = self.servers[name]
        server.up = False
        server.page = (0, 0)
        server.lanes.clear()

    def _cmd_power_on(self, name: str) -> None:
        voter = self.voters[name]
        voter.until, voter.deaf_until = 0, self.now + LEASE_MS
        if name == WITNESS:
            self.witness_up = True
            return
        server = self.servers[name]
        server.up = server.agent = True
        server.boots += 1
        server.started = server.booted = self.now
        server.flag = server.address = server.stopping = False
        server.gate, server.stream, server.in_sync = "closed", "idle", False
        server.units = "inactive" if server.held else "active"
        server.outcomes = {}

    def _cmd_pair(self) -> None:
        """Two servers without an arbiter."""
        self.witness_up = False
        self.settings = replace(self.settings, witness="")

    def _cmd_three(self) -> None:
        """A third server that holds data; the witness is there and does not vote."""
        names = (*self.servers, THIRD)
        self.servers[THIRD], self.voters[THIRD] = Server(THIRD), Voter()
        self.settings = replace(self.settings, servers=names)

    def _cmd_cut(self, one: str, two: str) -> None:
        self.cut.add(frozenset((one, two)))

    def _cmd_heal(self, one: str, two: str) -> None:
        self.cut.discard(frozenset((one, two)))

    def _cmd_stream(self, word: str) -> None:
        """Data do not get through, heartbeats do: a line that is too slow."""
        self.stream_cut = word == "off"

    def _cmd_said(self, row: str) -> None:
        self.lines.append(f"          {self.sentences[row]}")

    def _cmd_kill_agent(self, name: str) -> None:
        server = self.servers[name]
        server.agent = False
        server.lanes.clear()

    def _cmd_start_agent(self, name: str) -> None:
        server = self.servers[name]
        server.agent, server.started, server.outcomes = True, self.now, {}

    def _cmd_break_units(self, name: str) -> None:
        self.servers[name].units_broken = True

    def _cmd_mend_units(self, name: str) -> None:
        self.servers[name].units_broken = False

    def _cmd_shut_down(self, name: str) -> None:
        """systemd stops the protected units first, Everup's own processes later."""
        self.servers[name].stopping = True
        self.servers[name].units = "inactive"

    def _cmd_unit_dies(self, name: str) -> None:
        self.servers[name].units = "failed"

    def _cmd_guard_dies(self, name: str) -> None:
        self.servers[name].gate = "closed"

    def _cmd_stop_apply(self, name: str) -> None:
        self.servers[name].apply_trouble = "no space left on device"

    def _cmd_go_on_applying(self, name: str) -> None:
        self.servers[name].apply_trouble = ""

    def _cmd_replicator_restarts(self, name: str) -> None:
        self.servers[name].stream = "idle"

    def _cmd_journal(self, name: str, state: str) -> None:
        self.servers[name].journal_state = state

    def _cmd_show(self) -> None:
        for s in self.servers.values():
            if not s.up:
                self.lines.append(f"          {s.name}: off")
                continue
            words = [s.state.role.value, f"epoch {s.state.epoch}", f"gate {s.gate}"]
            words += ["address"] * s.address + [f"units {s.units}", f"tree {s.tree.state}"]
            words += ["waits for " + ",".join(s.waits_for)] * bool(s.waits_for)
            self.lines.append(f"          {s.name}: {', '.join(words)}")
        r = self.record
        self.lines.append(
            f"          record: voters {','.join(r.voters)}; "
            f"may take over {','.join(r.may_take_over)}; {r.mode}"
        )


def play(text: str) -> tuple[str, Group]:
    """Run the commands of a scenario ("> command"); comments stay, output is made anew."""
    group = Group()
    out: list[str] = []
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            out.append(line)
        elif line.startswith("> "):
            out.append(line)
            group.lines = []
            group.command(line[2:])
            out += group.lines
    return "\n".join(out) + "\n", group
