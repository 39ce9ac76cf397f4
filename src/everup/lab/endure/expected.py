"""Lines at warning or error level that servers may say under these faults, each with its reason.

What enters: lines of the servers' journals and the marks of the round. What leaves: those that
nobody expected. Anything new is a finding until somebody has understood it and given it a reason
here.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from everup.lab.endure.logs import Line


@dataclass(frozen=True)
class Expected:
    """`marks`: beginnings of the marks of rounds (see `Plan.marks`) in which it may be said; empty:
    in any."""

    source: str
    pattern: re.Pattern[str]
    reason: str
    marks: tuple[str, ...] = ()

    def covers(self, line: Line, marks: tuple[str, ...]) -> bool:
        fits = not self.marks or any(mark.startswith(self.marks) for mark in marks)
        return fits and line.source.startswith(self.source) and bool(self.pattern.search(line.text))


def _say(source: str, pattern: str, reason: str, *marks: str) -> Expected:
    return Expected(source, re.compile(pattern), reason, marks)


# Rounds in which the guard's connections end, or its gate closes under a running database.
_FILES_GO = (
    *("kill-active:guard-holder", "kill-active:everything"),
    *("freeze", "isolate-active"),
)
# Rounds in which a server stands still, restarts, or cannot reach the voters.
_ENDS_A_LEASE = (
    *("power-cut", "both-off", "all-off", "reboot", "stale-first", "freeze", "kill", "isolate"),
    *("shutdown", "cut", "flap", "slow", "switchover", "two-faults"),
)
_POWER = ("power-cut", "both-off", "all-off", "reboot", "stale-first", "switchover-in-resync")

EXPECTED: tuple[Expected, ...] = (
    # --- what is said in every round, without being a complaint
    _say(
        "everup-",
        r"^(peer-(silent|back)|lease-(won|free|lost)|record-changed|proposed|stood|newer-epoch)"
        r" \{",
        "the keeper's own events; the agent hears them and judges",
    ),
    _say("everup-", r"^keeper of \w+ runs as ", "a keeper says its incarnation when it starts"),
    _say("everup-", r"^found the lease of epoch \d+ again", "a killed keeper goes on", "kill"),
    _say(
        "everup-replicator",
        r"^everup-replicator: (resync-started|resync-finished|divergence|"
        r"verify-equal|verify-broken-off): ",
        "the replicator tells what it does; a divergence is what a power cut leaves behind, and "
        "after a narrow repair everything is verified by itself, until a role changes",
    ),
    _say(
        "everup-guard",
        r"^everup-guard: (a connection ended, closing the gate|gate closed at )",
        "the guard tells what it does; it also hears the end of connections that it ends itself",
    ),
    # --- the group tells people what the fault did to it
    _say(
        "everup-agent",
        r"event_log: (list-shrunk|stand-failover|granted-failover|active-after-failover|"
        r"active-again|booted-in-office|lease-lost|gate-lost|promotion-lost|withdrawn|"
        r"divergence): ",
        "the loss of a server is an event that people hear of",
        *_ENDS_A_LEASE,
        "full-disk",
    ),
    _say(
        "everup-agent",
        r"event_log: (switch-abandoned|take-back|stand-given-back|switch-back): ",
        "a switchover that a fault hit is taken back",
        "power-cut-in-switchover",
        "switchover-in-resync",
    ),
    _say(
        "everup-agent",
        r"act\.executor: Stand\(.*\): (granted-elsewhere|no-majority|not-on-list|newer-epoch|"
        r"stale-record)",
        "who is cut off stands in vain; an overtaken candidate as well",
        *_ENDS_A_LEASE,
    ),
    _say(
        "everup-agent",
        r"is not observed: \w+ did not answer 'status' in \d+ ms",
        "on a busy or frozen machine one look comes to nothing; the next turn looks again",
    ),
    _say(
        "everup-agent",
        r"services: the states of the units are unknown: ",
        "while a server is shut down, or kills its database, systemd has no time for questions",
        *("shutdown", *_FILES_GO),
    ),
    _say(
        "everup-agent",
        r"(StartUnits\(|units-failed: ).* is destructive ",
        "systemd starts nothing any more while the server is shut down",
        "shutdown-active",
    ),
    # --- power
    _say(
        "everup-guard",
        r"^everup-guard: the journal's end was cut by ",
        "a journal that was not closed in order ends with a batch that nobody finished",
        *_POWER,
        "kill-active",
    ),
    # --- space and cables
    _say(
        "everup-",
        r"No space left on device|no room is left but for votes and seals",
        "whoever cannot write says so, and goes on when there is room",
        "full-disk",
    ),
    _say(
        "postgres",
        r"(ERROR|FATAL|PANIC):  .*(No space left on device|could not write init file)",
        "so does the database, when the server with the full disk has become active meanwhile",
        "full-disk",
    ),
    _say(
        "everup-guard",
        r"^everup-guard: (the journal goes on behind a gap|the journal could not be written)",
        "a journal that had no room goes on when there is some; the passive compares the trees",
        "full-disk",
    ),
    _say(
        "everup-agent",
        r"alerts\.outbox: not delivered yet: ",
        "a message waits until its network is back",
        *("isolate", "cut", "flap", "slow"),
    ),
    # --- a server that is away for more than ten seconds
    _say(
        "everup-agent",
        r"event_log: voters-shrunk: ",
        "people hear that there is no automatic failover until the voter is back",
        *_ENDS_A_LEASE,
    ),
    # --- killed processes
    _say(
        "everup-guard",
        r"^everup-guard: (the )?worker ended (with -9; it is replaced|\(-9\), starting it again)",
        "the holder replaces a killed worker",
        "kill",
    ),
    _say(
        "everup-agent",
        r"event_log: guard-worker-replaced: ",
        "and people find it among the events",
        "kill",
    ),
    _say(
        "systemd",
        r"(code=killed, status=9/KILL|Failed with result 'signal'|Failed to start everup-)",
        "systemd says that a process was killed, and starts another",
        "kill",
    ),
    _say(
        "everup-agent",
        r"(is not observed: \w+ cannot be asked|: \w+ cannot be asked '\w+': \[Errno 111\])",
        "the agent asks a process that is just being started again",
        "kill",
    ),
    # --- PostgreSQL
    _say(
        "postgres",
        r"FATAL:  the database system is (starting up|shutting down|not yet accepting connections|"
        r"in recovery mode)",
        "clients ask again and again while the database starts or stops",
    ),
    _say(
        "postgres",
        r"FATAL:  terminating connection due to administrator command",
        "the database is stopped in order when the server goes out of service",
    ),
    _say(
        "postgres",
        r"(PANIC|ERROR|FATAL|WARNING):  .*(Input/output error|Software caused connection abort|"
        r"Transport endpoint is not connected|Read-only file system)",
        "a database that runs while its files go away says so and stops",
        *_FILES_GO,
    ),
    _say(
        "postgres",
        r"PANIC:  could not locate a valid checkpoint record|FATAL:  required WAL directory",
        "it tries to recover by itself over files that are not there any more",
        *_FILES_GO,
    ),
    _say(
        "everup-agent",
        r"did not stop in \d+ ms and is killed",
        "a database whose files are gone does not always stop in order",
        *_FILES_GO,
    ),
    _say(
        "postgres",
        r"(WARNING|FATAL):  terminating connection because of (crash|unexpected)",
        "and so do the other processes of that database",
        *_FILES_GO,
    ),
    _say(
        "postgres",
        r"FATAL:  connection to client lost|could not (send|receive) data",
        "a client hangs up after a second without an answer",
    ),
)


def unexpected(lines: Iterable[Line], marks: tuple[str, ...]) -> list[Line]:
    """Lines that no entry of the list covers in a round with these marks."""
    return [line for line in lines if not any(each.covers(line, marks) for each in EXPECTED)]
