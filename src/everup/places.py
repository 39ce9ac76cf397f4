"""Where everything lies on a server.

What enters: the environment variable EVERUP_ROOT (a prefix for tests and for a second instance).
What leaves: paths. Every process asks here, none builds a path by hand.
"""

import os
from dataclasses import dataclass
from pathlib import Path

PEER_STREAM_PORT = 7570
KEEPER_PORT = 7570
CONSOLE_PORT = 7571
WITNESS_PORT = 7572
AGENT_PEER_PORT = 7573


@dataclass(frozen=True)
class Places:
    """The three roots (settings, durable state, run-time state) and what lies below them."""

    etc: Path
    var: Path
    run: Path

    @classmethod
    def real(cls) -> "Places":
        """The places of this server, below EVERUP_ROOT when that is set."""
        return cls.below(Path(os.environ.get("EVERUP_ROOT", "/")))

    @classmethod
    def below(cls, root: Path) -> "Places":
        return cls(root / "etc/everup", root / "var/lib/everup", root / "run/everup")

    # settings
    @property
    def server_settings(self) -> Path:
        return self.etc / "server.toml"

    @property
    def tls(self) -> Path:
        return self.etc / "tls"

    @property
    def ca_certificate(self) -> Path:
        return self.tls / "ca.pem"

    @property
    def ca_key(self) -> Path:
        return self.tls / "ca.key"

    @property
    def certificate(self) -> Path:
        return self.tls / "server.pem"

    @property
    def private_key(self) -> Path:
        return self.tls / "server.key"

    @property
    def heartbeat_key(self) -> Path:
        return self.tls / "heartbeat.key"

    # durable state
    @property
    def state(self) -> Path:
        return self.var / "state"

    @property
    def group_settings(self) -> Path:
        return self.state / "group.toml"

    @property
    def vote(self) -> Path:
        return self.state / "vote.json"

    @property
    def tree(self) -> Path:
        return self.state / "tree.json"

    @property
    def history(self) -> Path:
        return self.state / "history.json"

    @property
    def armed(self) -> Path:
        return self.state / "armed.json"

    @property
    def journal(self) -> Path:
        return self.var / "journal"

    @property
    def receive(self) -> Path:
        return self.var / "receive"

    @property
    def undo(self) -> Path:
        return self.var / "undo"

    @property
    def divergence(self) -> Path:
        return self.var / "divergence"

    @property
    def quarantine(self) -> Path:
        return self.var / "quarantine"

    # run-time state
    @property
    def guard_socket(self) -> Path:
        return self.run / "guard.sock"

    @property
    def replicator_socket(self) -> Path:
        return self.run / "replicator.sock"

    @property
    def keeper_socket(self) -> Path:
        return self.run / "keeper.sock"

    @property
    def agent_socket(self) -> Path:
        return self.run / "agent.sock"

    @property
    def lease_page(self) -> Path:
        return self.run / "lease.page"

    @property
    def active_flag(self) -> Path:
        return self.run / "active"

    @property
    def guard_memory(self) -> Path:
        return self.run / "guard"

    def lower(self, tree_id: int) -> Path:
        """Writable bind of protected tree `tree_id`, below the gate."""
        return self.run / "lower" / str(tree_id)

    def make(self) -> None:
        """Create the directories, private to root; existing ones keep their content.

        `run` may be entered (0711), so that the console's user can reach the agent's socket.
        """
        private = [self.etc, self.tls, self.var, self.state, self.journal, self.receive]
        private += [
            self.undo,
            self.divergence,
            self.quarantine,
            self.run / "lower",
            self.guard_memory,
        ]
        for directory in private:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.etc.chmod(0o711)
        self.run.chmod(0o711)
