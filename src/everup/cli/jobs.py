"""Follow long work to its end: a bar with rate and time left for people, one document for programs.

What enters: a job that the agent has begun. What leaves: the finished job, or its error. No job is
followed for ever; when the deadline passes the work goes on and the job's name is said.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import typer

from everup.cli.client import Client, wants_json
from everup.cli.output import amount_text, bytes_text, duration_text, print_json, say
from everup.errors import DeadlinePassed, EverupError, NotConnected, error_from_json

Json = dict[str, Any]

POLL_S = 0.2
SILENCE_S_MAX = 30.0
"""An agent may restart while its job goes on; longer silence than this is an error."""


Judge = Callable[[Json, int], str | None]
"""From the group's status and the time: the sentence of success, or None while it is undecided."""
LOST = ("unknown-job", "agent-stopped")
"""Errors of a job that the agent forgot when it was started anew."""


def finish(
    context: typer.Context,
    client: Client,
    job: Json,
    *,
    wait: bool,
    deadline_s: int,
    judge: Judge | None = None,
) -> None:
    """Show the job (at its end when `wait`), or raise its error.

    When the agent is started anew meanwhile it has forgotten the job; `judge` then says from the
    group's status how it ended.
    """
    if wait:
        job = _follow(client, job, deadline_s, judge, quiet=wants_json(context))
    if wants_json(context):
        if job["state"] == "failed":
            raise job_error(job)
        print_json({"job": job})
    elif job["state"] == "failed":
        raise job_error(job)
    elif wait:
        typer.echo(job["sentence"])
    else:
        sentence = job["sentence"] or f"the {job['kind']} has begun"
        typer.echo(f"{sentence} (job {job['id']}); it goes on by itself")


def job_error(job: Json) -> EverupError:
    """The error with which a job ended."""
    named = job.get("error") or {"code": "failed"}
    sentence = named.get("sentence") or job["sentence"] or f"the {job['kind']} failed"
    return error_from_json({**named, "sentence": sentence})


def _follow(
    client: Client, job: Json, deadline_s: int, judge: Judge | None, *, quiet: bool
) -> Json:
    show = progress_display(quiet)
    end = time.monotonic() + deadline_s
    heard = time.monotonic()
    lost = False
    with show:
        while job["state"] == "running":
            show.update(job)
            if time.monotonic() > end:
                raise DeadlinePassed(
                    f"the {job['kind']} is not finished after {deadline_s} s: {job['sentence']}",
                    remedy=f"it goes on by itself (job {job['id']}); see everup status",
                )
            time.sleep(POLL_S)
            try:
                job = _judged(client, job, judge) if lost else _asked(client, job)
                heard = time.monotonic()
            except (NotConnected, DeadlinePassed) as error:
                if time.monotonic() - heard > SILENCE_S_MAX:
                    raise _silent(job, error) from error
            lost = lost or (job.get("error") or {}).get("code") in LOST
            if lost and judge is not None and job["state"] == "failed":
                job = {
                    **job,
                    "state": "running",
                    "sentence": f"the {job['kind']} goes on; the agent was started anew meanwhile",
                    "error": None,
                }
    return job


def _asked(client: Client, job: Json) -> Json:
    """The job as it is now; a failed one when the agent has forgotten it."""
    try:
        answer: Json = client.get(f"/v1/jobs/{job['id']}", deadline_ms=5_000)["job"]
        return answer
    except EverupError as error:
        if error.code not in LOST:
            raise
        forgotten = EverupError(
            f"the agent was started anew during the {job['kind']}: how far it came is not known",
            remedy="everup status shows how things are; it may be asked for again",
            code="unknown-job",
        )
        return {**job, "state": "failed", "error": forgotten.to_json()}


def _judged(client: Client, job: Json, judge: Judge | None) -> Json:
    assert judge is not None, "a lost job without a judge has failed"
    status = client.get("/v1/status", deadline_ms=5_000)
    sentence = judge(status, round(time.monotonic() * 1000))
    if sentence is None:
        return job
    return {**job, "state": "done", "sentence": sentence, "result": {}}


def _silent(job: Json, error: EverupError) -> NotConnected:
    return NotConnected(
        f"no word of the {job['kind']} for {SILENCE_S_MAX:.0f} s: {error.sentence}",
        remedy="it ends by itself; ask another server: everup --server URL status",
    )


def progress_display(quiet: bool) -> "Display":
    """What fits where standard error goes: a bar, lines, or nothing for programs."""
    if quiet:
        return Display()
    return _Bar() if sys.stderr.isatty() else _Lines()


class Display:
    """Shows nothing; the others show jobs, or what looks like one."""

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def update(self, job: Json) -> None:
        del job


class _Lines(Display):
    """Into a file or a pipe: a line whenever the sentence changes."""

    def __init__(self) -> None:
        self._last = ""

    def update(self, job: Json) -> None:
        if job["sentence"] != self._last:
            self._last = job["sentence"]
            say(self._last)


class _Bar(Display):
    """On a terminal."""

    def __enter__(self) -> Display:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            TextColumn("[dim]{task.fields[detail]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, detail="")
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def update(self, job: Json) -> None:
        progress = job.get("progress") or {}
        self._progress.update(
            self._task,
            description=job["sentence"],
            completed=progress.get("done") or 0,
            total=progress.get("total") or None,
            detail=progress_text(progress),
        )


def progress_text(progress: Json) -> str:
    """Amount, rate and time left, as far as they are known."""
    parts = []
    unit = str(progress.get("unit") or "")
    if progress.get("total") or progress.get("done"):
        parts.append(amount_text(progress.get("done") or 0, progress.get("total"), unit))
    if progress.get("rate") and unit == "bytes":
        parts.append(f"{bytes_text(progress['rate'])}/s")
    if progress.get("left_ms"):
        parts.append(f"{duration_text(progress['left_ms'])} left")
    return ", ".join(parts)
