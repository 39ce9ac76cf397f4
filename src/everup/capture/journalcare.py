"""Keep the journal usable: open what a crash left, notice that it is full, begin anew behind a gap.

What enters: the journal's directory, the order that appends to it, a quota. What leaves: a journal
that can be appended to, or an order that knows that it cannot. Owned by the guard; one thread.

A journal that cannot be written never stops an application: what is not journaled makes a gap. The
gap ends by itself as soon as the disk takes records again, with a new chain (`journal.gap`) that no
other server stands on, so those that lack something are compared and not streamed.
"""

import os
import secrets
import sys
import threading
import time
from typing import Any

from everup.capture.order import Order
from everup.errors import Corrupt, Refused
from everup.journal.aside import Aside, forget_aside, load_aside, put_aside
from everup.journal.dirty import DirtyMap, save_map
from everup.journal.history import load_history
from everup.journal.operation import Gap
from everup.journal.record import HEADER_BYTES, Record
from everup.journal.segment import SUFFIX
from everup.journal.writer import Closed, JournalWriter, Recovered
from everup.limits import (
    BATCH_BYTES_MAX,
    RESERVE_BYTES,
    SEGMENT_BYTES,
    STATE_FREE_BYTES_MIN,
)
from everup.model.position import ORIGIN, Position
from everup.places import Places
from everup.system.files import keep_reserve, load_json, sync_directory

OPEN_FREE_BYTES_MIN = 2 * SEGMENT_BYTES
"""Room that a gate needs to open, and a journal that was full to begin again."""
QUOTA_MARGIN_BYTES = 2 * SEGMENT_BYTES
"""The replicator deletes what is over the quota every few seconds; only behind it comes the gap."""
LOOK_EVERY_S = 0.25
QUOTA_EVERY = 4
RESERVE_EVERY = 40
RETRY_S_MIN = 1.0
RETRY_S_MAX = 30.0


class JournalCare:
    """One per guard. `open` once, then `start`."""

    def __init__(
        self, places: Places, journal: JournalWriter, order: Order, dirty: DirtyMap
    ) -> None:
        self._dirty = dirty
        self._places = places
        self._journal = journal
        self._order = order
        self._retry_at = 0.0
        self._retry_s = RETRY_S_MIN
        self._aside: Aside | None = None
        self._quota_bytes = 0
        self.server = ""

    # what a crash left

    def open(self, last: Closed | None, hot_epoch: int | None) -> tuple[Record, ...]:
        """Make the journal ready; the records of its open batch.

        `last`: the batch end that a killed worker left in shared memory. `hot_epoch`: that of the
        open gate, if applications are writing. A damaged journal never stops the server: it is put
        aside whole, and under open applications it counts as one that has just failed.
        """
        hot = hot_epoch is not None
        problem: Exception
        try:
            self._aside = load_aside(self._places.state)
            if self._aside is None:
                recovered = self._journal.resume(last) if last else self._journal.recover()
                self._check_end(recovered, hot)
                return self._opened(recovered)
            problem = Corrupt(self._aside.sentence)
        except (Corrupt, OSError, ValueError, KeyError) as found:
            problem = found
        if self._aside is None or any(self._places.journal.glob(f"*{SUFFIX}")):
            self._put_aside(str(problem), last)
        self._journal.stand_at(ORIGIN)
        if hot_epoch is not None and self._aside is not None:
            end = self._aside.end
            self._dirty.lose()
            self._journal.stand_at(Position(hot_epoch, end.sequence, end.checksum))
            self._order.fail_journal("error", f"the journal could not be read: {problem}")
        return ()

    @staticmethod
    def _opened(recovered: Recovered | None) -> tuple[Record, ...]:
        if recovered is None:
            return ()
        if recovered.cut_bytes:
            why = f": {recovered.problem}" if recovered.problem else ""
            _say(f"the journal's end was cut by {recovered.cut_bytes} bytes{why}")
        return recovered.loose

    def _check_end(self, recovered: Recovered | None, hot: bool) -> None:
        """A clean stop leaves a whole journal: then a cut or missing end is damage, no torn tail.

        Taking it for the end would stream to others from before what the trees hold already.
        """
        tree = load_json(self._places.tree) or {}
        if hot or tree.get("state") != "at":
            return
        stood = Position.from_json(tree["position"])
        end = recovered.position if recovered else ORIGIN
        if recovered and recovered.cut_bytes:
            raise Corrupt(
                f"{recovered.cut_bytes} bytes at the journal's end are damaged although this "
                f"server was stopped cleanly: {recovered.problem or 'zeros'}",
                code="journal-end",
            )
        if end.epoch == stood.epoch and end.sequence < stood.sequence:
            raise Corrupt(
                f"the journal ends at {end.epoch}/{end.sequence}, but this server stopped at "
                f"{stood.epoch}/{stood.sequence}: its newest segment is missing",
                code="journal-end",
            )

    def _put_aside(self, sentence: str, last: Closed | None) -> None:
        known = self._aside.end if self._aside is not None else ORIGIN
        epoch, sequence = known.epoch, known.sequence
        if last is not None:
            sequence = max(sequence, last.position.sequence + BATCH_BYTES_MAX // HEADER_BYTES)
        try:
            for start in load_history(self._places.history):
                epoch = max(epoch, start.epoch)
                sequence = max(sequence, start.parent.sequence)
        except (ValueError, KeyError):
            _say("the history of this group's epochs is not readable")
        places = self._places
        self._aside = put_aside(places.journal, places.state, sentence, epoch, sequence)
        _say(f"the journal was put aside as {self._aside.path}: {sentence}")

    def parent_of(self, parent: Position | None) -> Position:
        """Where a new epoch begins: at `parent`, or at the end of this server's own journal.

        Behind a journal that was put aside numbers go on, with a check sum that nobody has.
        """
        if parent is None:
            parent = self._journal.position if self._journal.sequence else ORIGIN
        if parent == ORIGIN and self._aside is not None:
            return self._aside.end
        return parent

    def epoch_begun(self) -> None:
        """The journal has a beginning again."""
        if self._aside is not None:
            forget_aside(self._places.state)
            self._aside = None

    # room

    def check_room(self) -> None:
        """Before a gate opens. Raises Refused."""
        if self._free_bytes() < OPEN_FREE_BYTES_MIN:
            raise Refused(
                f"{self._places.journal} has no room for the journal",
                remedy="make at least 128 MiB free there",
                code="journal-full",
            )

    def set_quota(self, quota_bytes: int) -> None:
        """The group's setting, as the replicator says it again and again; 0: not known yet."""
        self._quota_bytes = quota_bytes

    def _free_bytes(self) -> int:
        status = os.statvfs(self._places.journal)
        return status.f_bavail * status.f_frsize

    def _used_bytes(self) -> int:
        with os.scandir(self._places.journal) as entries:
            return sum(_size(entry) for entry in entries if entry.name.endswith(SUFFIX))

    def over_quota(self, margin: int = 0) -> bool:
        return bool(self._quota_bytes) and self._used_bytes() > self._quota_bytes + margin

    # the thread

    def start(self) -> None:
        threading.Thread(target=self._run, name="journal-care", daemon=True).start()

    def _run(self) -> None:
        turn = 0
        while True:
            time.sleep(LOOK_EVERY_S)
            turn += 1
            try:
                if turn % RESERVE_EVERY == 1:
                    keep_reserve(self._places.state, RESERVE_BYTES)
                if self._order.closing:
                    continue
                if self._order.journal_state == "ok":
                    self._look(check_quota=turn % QUOTA_EVERY == 0)
                elif time.monotonic() >= self._retry_at:
                    self._begin_again()
            except (OSError, Corrupt) as problem:
                self._put_off(str(problem))

    def _look(self, *, check_quota: bool) -> None:
        free = self._free_bytes()
        if free < STATE_FREE_BYTES_MIN:
            self._order.fail_journal(
                "full",
                f"only {free >> 20} MiB are free where the journal lies, and the votes need them",
            )
        elif check_quota and self.over_quota(QUOTA_MARGIN_BYTES):
            self._order.fail_journal("full", f"the journal's quota of {self._quota()} is used up")
        else:
            self._retry_at, self._retry_s = time.monotonic() + RETRY_S_MIN, RETRY_S_MIN

    def _quota(self) -> str:
        return f"{self._quota_bytes >> 20} MiB"

    def _begin_again(self) -> None:
        """Behind the gap, if the disk takes it. Raises OSError."""
        if self._free_bytes() < OPEN_FREE_BYTES_MIN or self.over_quota():
            return
        order, journal = self._order, self._journal
        with order.lock:
            since, last = journal.position, journal.behind_everything()
        gap = Gap(since, last, secrets.token_hex(8), self.server, order.journal_sentence)
        chain = journal.prepare(gap)
        with order.lock:
            if order.journal_state == "ok" or order.closing or journal.position != since:
                # A new epoch has begun meanwhile, or the gate is closing.
                chain.path.unlink()
                return
            closed = journal.enter(chain)
            dirty = self._dirty.take()
            order.journal_again(closed)
        sync_directory(self._places.journal)
        if dirty is not None:
            # Lost in between, by a kill or a power cut, it means that everything is compared.
            save_map(self._places.state, gap.gap_id, dirty)
        self.epoch_begun()
        order.after_journal_again()
        _say(f"the journal goes on behind a gap at {chain.end.epoch}/{chain.end.sequence}")

    def _put_off(self, problem: str) -> None:
        if self._retry_s == RETRY_S_MIN:
            _say(f"the journal cannot go on yet: {problem}")
        self._retry_at = time.monotonic() + self._retry_s
        self._retry_s = min(RETRY_S_MAX, self._retry_s * 2)

    def facts(self) -> dict[str, Any]:
        """For the status."""
        aside = self._aside
        return {
            "quota_bytes": self._quota_bytes,
            "aside": {"path": aside.path, "sentence": aside.sentence} if aside else None,
            "dirty": self._dirty_facts() if self._order.journal_state != "ok" else None,
        }

    def _dirty_facts(self) -> dict[str, Any]:
        facts = self._dirty.facts()
        known = f"at most {facts['bytes'] >> 10} KiB in {facts['objects']} objects"
        whole = known if facts["complete"] else "how much is not known, all will be compared"
        return {**facts, "sentence": f"changed and not in the journal: {whole}"}


def _size(entry: "os.DirEntry[str]") -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0


def _say(sentence: str) -> None:
    print(f"everup-guard: {sentence}", file=sys.stderr, flush=True)
