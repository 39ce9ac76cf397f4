"""Long work that a person asked for: its progress, its sentence, its end.

What enters: a coroutine that reports as it goes. What leaves: jobs as JSON. Called by the service;
read by the API. A job lives as long as the agent: after a restart of it, the state of the server
itself says how far things came.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from everup.errors import EverupError, NotConnected, Refused

log = logging.getLogger(__name__)

JOBS_MAX = 100


class Job:
    """One piece of work; the worker calls `say` and `advance`."""

    def __init__(self, kind: str, *, beside: bool = False) -> None:
        self.id = secrets.token_hex(8)
        self.kind = kind
        self.beside = beside
        self.state = "running"
        self.sentence = ""
        self.result: dict[str, Any] = {}
        self.error: EverupError | None = None
        self._done = 0
        self._total = 0
        self._unit = "steps"
        self._rate = 0
        self._left_ms: int | None = None

    def say(self, sentence: str) -> None:
        """What is being done now."""
        log.info("%s %s: %s", self.kind, self.id, sentence)
        self.sentence = sentence

    def say_once(self, sentence: str) -> None:
        """As `say`, unless it was said last."""
        if sentence != self.sentence:
            self.say(sentence)

    def advance(
        self,
        done: int,
        total: int,
        unit: str = "steps",
        *,
        rate: int = 0,
        left_ms: int | None = None,
    ) -> None:
        """How far it is; `rate` in units per second."""
        self._done, self._total, self._unit = done, total, unit
        self._rate, self._left_ms = rate, left_ms

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {
            "id": self.id,
            "kind": self.kind,
            "state": self.state,
            "progress": {
                "done": self._done,
                "total": self._total,
                "unit": self._unit,
                "rate": self._rate,
                "left_ms": self._left_ms,
            },
            "sentence": self.sentence,
        }
        if self.error is not None:
            value["error"] = self.error.to_json()
        if self.state == "done":
            value["result"] = self.result
        return value


class Jobs:
    """At most one job that changes the group runs at a time on a server."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(
        self, kind: str, work: Callable[[Job], Awaitable[None]], *, beside: bool = False
    ) -> Job:
        """Begin a job. Raises Refused while another one runs that it could disturb.

        `beside`: it changes no role; only another one of its kind keeps it from running.
        """
        running = next(
            (
                job
                for job in self._jobs.values()
                if job.state == "running" and (job.kind == kind if beside else not job.beside)
            ),
            None,
        )
        if running is not None:
            raise Refused(
                f"a {running.kind} is running: {running.sentence}",
                remedy="wait until it has ended",
                code="busy",
            )
        job = Job(kind, beside=beside)
        self._jobs[job.id] = job
        while len(self._jobs) > JOBS_MAX:
            self._jobs.pop(next(iter(self._jobs)))
        task = asyncio.create_task(self._run(job, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    def get(self, job_id: str) -> Job:
        """Raises Refused (code `unknown-job`) for a job that this agent does not know."""
        job = self._jobs.get(job_id)
        if job is None:
            raise Refused(
                f"there is no job {job_id!r} on this server",
                remedy="everup status says how things are",
                code="unknown-job",
            )
        return job

    async def stop(self) -> None:
        """Cancel what runs; each job undoes what must not stay half done."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, job: Job, work: Callable[[Job], Awaitable[None]]) -> None:
        try:
            await work(job)
        except EverupError as error:
            self._fail(job, error)
        except asyncio.CancelledError:
            self._fail(job, NotConnected("the agent was stopped", code="agent-stopped"))
            raise
        except Exception as error:
            log.exception("job %s failed unexpectedly", job.kind)
            self._fail(job, EverupError(f"internal error: {type(error).__name__}: {error}"))
        else:
            job.state = "done"

    @staticmethod
    def _fail(job: Job, error: EverupError) -> None:
        job.error, job.sentence, job.state = error, error.sentence, "failed"
