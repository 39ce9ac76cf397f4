"""What is kept of a round that had a finding.

What enters: the scene, while it is still as the round has left it. What leaves: a directory with
every server's journal since the round began, the status of every process, the files in which
Everup remembers things, the client's histories, and the round itself.
"""

import json
import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path

from everup.lab.endure.report import Round
from everup.lab.endure.scene import Scene, quietly

_PROCESSES = ("guard", "replicator", "keeper")
_STATE = "/var/lib/everup/state"
_READ_S = 60
_JOURNAL_FROM_BEFORE_S = 5.0


def keep(scene: Scene, figures: Round, since: float, directory: Path) -> None:
    """Fill `directory`, which is made anew. `since`: the wall clock at the round's beginning."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / "round.json").write_text(json.dumps(asdict(figures), indent=1) + "\n")
    for name in scene.lab.server_names:
        _journal(scene, name, since - _JOURNAL_FROM_BEFORE_S, directory)
    for name in scene.lab.data_servers:
        _told(scene, name, directory)
        _remembered(scene, name, directory)
    histories = directory / "client"
    quietly(lambda: shutil.copytree(scene.stage.load_logs, histories))


def _journal(scene: Scene, name: str, since: float, directory: Path) -> None:
    recorder = scene.lab.directory / "journal" / name
    words = ["journalctl", "-D", str(recorder), "--no-pager", "--output=short-precise"]
    done = scene.lab.base.run([*words, f"--since=@{since:.3f}"], check=False, timeout_s=_READ_S)
    (directory / f"{name}.log").write_text(done.stdout)


def _told(scene: Scene, name: str, directory: Path) -> None:
    told = {process: quietly(partial(scene.ask, name, process)) for process in _PROCESSES}
    told["agent"] = quietly(lambda: scene.group.status(name))
    events = quietly(lambda: scene.group.ask(name, "/v1/events?after=0&limit=500"))
    (directory / f"{name}-status.json").write_text(json.dumps(told, indent=1) + "\n")
    (directory / f"{name}-events.json").write_text(json.dumps(events, indent=1) + "\n")


def _remembered(scene: Scene, name: str, directory: Path) -> None:
    """Copied from below, since the server may have no power (then its disk is not mounted)."""
    state = scene.server(name).disk.real(_STATE)
    quietly(lambda: shutil.copytree(state, directory / f"{name}-state"))
