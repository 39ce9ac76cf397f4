"""The lab that endurance runs on: a protected PostgreSQL, a client, a busy file tree.

What enters: a lab's name. What leaves: a stage with a synchronized group in durable mode. A lab of
that name that runs already (the one of the tests, or of `everup lab demo --keep`) is used as it is.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from everup.lab.database import ACCOUNTS_PER_SCALE, PROTECTED
from everup.lab.lab import Lab
from everup.lab.stage import ECHO_UNIT, Stage, write_unit
from everup.lab.wheels import Wheels

SCALE = 2
WORKERS = 4
CHURN_UNIT = "lab-churn"
_CHURN_PER_S = 60
_SYNC_S = 180
_FILE_SYSTEMS = {"secondary": "xfs"}

Say = Callable[[str], None]


class Ground:
    """One lab for many rounds."""

    def __init__(self, lab: Lab, wheels: Callable[[], Wheels], seed: int) -> None:
        self.stage = Stage(lab)
        self._wheels = wheels
        self._seed = seed
        self._accounts = SCALE * ACCOUNTS_PER_SCALE

    def build(self, say: Say) -> None:
        """From nothing to a synchronized group."""
        stage = self.stage
        stage.lab.down()
        stage.build(self._wheels(), _FILE_SYSTEMS, say=say)
        say("filling PostgreSQL")
        stage.database.create(stage.lab.server("primary"), SCALE)
        say("forming the group")
        stage.form()
        say("protecting the database")
        words = ["--unit", stage.database.unit, "--mode", "durable", "--deadline", str(_SYNC_S)]
        stage.group.everup("primary", "protect", *PROTECTED, *words, timeout_s=_SYNC_S + 30)
        say("the first copy to the secondary")
        stage.group.wait("primary", "synchronized", _SYNC_S)
        # Both echoes run all the time: only the kernel's rules keep the passive one mute.
        for name in stage.lab.data_servers:
            stage.lab.server(name).run(["systemctl", "start", ECHO_UNIT])
        stage.start_prober()
        self.settle()

    def settle(self) -> None:
        """What the rounds need beside the group; also of a lab that somebody else has built."""
        database, lab = self.stage.database, self.stage.lab
        active = lab.server(self.stage.group.active())
        self._accounts = int(database.ask(active, "SELECT count(*) FROM pgbench_accounts")[0])
        for number, name in enumerate(lab.data_servers):
            seed = random.Random(f"{self._seed}/churn/{number}").randrange(1 << 30)
            words = f"-m everup.lab.guests.churn {PROTECTED[0]}/churn {seed} {_CHURN_PER_S}"
            write_unit(lab.server(name), CHURN_UNIT, "A busy file tree", words, "/opt/everup")
        self.stage.settle()

    @contextmanager
    def load(self) -> Iterator[None]:
        """Transactions and changes of files while the block runs; then nobody asks for anything."""
        self.stage.start_load(WORKERS, self._accounts)
        self._churn("enable")
        try:
            yield
        finally:
            self.stage.stop_load()
            self._churn("disable")

    def _churn(self, verb: str) -> None:
        """Also over a reboot: a server that comes back in the round goes on."""
        for name in self.stage.lab.data_servers:
            server = self.stage.lab.server(name)
            if server.powered and not server.frozen:
                server.run(["systemctl", verb, "--now", CHURN_UNIT], check=False)
