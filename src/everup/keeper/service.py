"""The keeper's process: one loop around the protocol, its sockets and the public address.

What enters: datagrams, the clock, work from the mailbox. What leaves: datagrams, the lease page,
kernel permission, events for subscribers. Started by `everup.keeper` and `everup.keeper.witness`.

The loop never waits for a disk: votes are saved by a thread and answered when that has reported.
"""

import json
import selectors
import socket
import sys
from collections.abc import Callable
from typing import Any

from everup.errors import BadInput, EverupError
from everup.keeper.channels import Channels
from everup.keeper.desk import Output
from everup.keeper.mailbox import Answer, Mailbox, Subscribers
from everup.keeper.protocol import Keeper
from everup.keeper.public import PublicDoor
from everup.keeper.report import status
from everup.keeper.settings import KeeperSettings, read_settings
from everup.keeper.store import Saver, VoteFile
from everup.places import Places
from everup.system.clock import boot_id, boottime_ns
from everup.system.leasepage import LeasePageWriter

MS = 1_000_000


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Service:
    def __init__(
        self, places: Places, settings: KeeperSettings, door: PublicDoor, scheduling: str
    ) -> None:
        self.places, self.settings, self.door = places, settings, door
        self.scheduling = scheduling
        self.subscribers = Subscribers()
        self.mailbox = Mailbox()
        self.problem = ""
        self._stopping = False
        self._public_due_ns = 0
        self._waiting: dict[str, list[Answer]] = {"stood": [], "proposed": []}
        vote = VoteFile(places, settings.server, boot_id())
        life = vote.begin()
        self._page = LeasePageWriter(places.lease_page, boot_id())
        self.channels = Channels(settings, life.incarnation)
        self.keeper = Keeper(
            settings.server,
            settings.members,
            settings.timing,
            life.state,
            boottime_ns(),
            run=life.incarnation,
            page=(self._page.epoch, self._page.deadline_ns),
        )
        self._saver = Saver(vote.save, self._saved, self._not_saved)
        self._selector = selectors.DefaultSelector()

    # loop

    def open(self) -> None:
        """Sockets, and what a life before this one left; then the loop may run."""
        self.channels.open(self.settings)
        self._register()
        self._selector.register(self.mailbox.descriptor, selectors.EVENT_READ)
        self._restore_public()
        self._found_if_alone()

    def run(self) -> None:
        while not self._stopping:
            due_ns = min(self.keeper.wake_at_ns(), self._public_due_ns)
            left_s = max(0, due_ns - boottime_ns()) / 1e9
            for key, _ in self._selector.select(left_s):
                if isinstance(key.fileobj, socket.socket):
                    self._take(key.fileobj)
                else:
                    self.mailbox.run()
            now_ns = boottime_ns()
            if now_ns >= self.keeper.wake_at_ns():
                self._apply(self.keeper.tick(now_ns))
            if now_ns >= self._public_due_ns:
                self._public_due_ns = self.door.tick(boottime_ns())
        self._saver.stop()
        self.channels.close()

    def stop(self) -> None:
        """End the loop. The lease stays what it is: a restart takes it up again."""
        self._stopping = True
        self.mailbox.wake()

    def _register(self) -> None:
        for each in self.channels.sockets:
            self._selector.register(each, selectors.EVENT_READ)

    def _take(self, ready: socket.socket) -> None:
        for sender, message in self.channels.take(ready):
            self._apply(self.keeper.receive(boottime_ns(), sender, message))

    # outputs

    def _apply(self, output: Output) -> None:
        if output.lease is not None:
            self._publish(*output.lease)
        for to, message in output.sends:
            self.channels.send(to, message)
        if output.store is not None:
            self._saver.put(*output.store)
        for event in output.events:
            self._event(event.kind, event.details)

    def _publish(self, epoch: int, deadline_ns: int) -> bool:
        """Tell guard and kernel; False when the kernel could not be told to be mute at once."""
        self._page.write(epoch, deadline_ns)
        try:
            self.door.leased(boottime_ns(), deadline_ns)
        except OSError as error:
            self.problem = f"the public address does not follow the lease: {error.strerror}"
            log(self.problem)
            return False
        if deadline_ns == 0:
            self._note_public()
        return True

    def _event(self, kind: str, details: dict[str, Any]) -> None:
        waiting = self._waiting.get(kind)
        if waiting is None:
            log(f"{kind} {json.dumps(details)}")
            self.subscribers.tell({"event": kind, **details})
            if kind == "peer-back":
                self.door.announce_again(boottime_ns())
                self._public_due_ns = 0
            return
        log(f"{kind} {json.dumps(details)}")
        self._waiting[kind] = []
        for answer in waiting:
            answer.give(details)

    def _saved(self, number: int) -> None:
        self.mailbox.put(lambda: self._apply(self.keeper.stored(boottime_ns(), number)))

    def _not_saved(self, error: OSError) -> None:
        def note() -> None:
            self.problem = f"the vote cannot be stored: {error.strerror}"
            log(self.problem)

        self.mailbox.put(note)

    # work for the control socket, always in the loop

    def do(self, answer: Answer, work: Callable[[Answer], None]) -> None:
        """Have `work` done by the loop; what it raises becomes the answer. Any thread."""

        def guarded() -> None:
            try:
                work(answer)
            except EverupError as error:
                answer.fail(error)
            except (OSError, ValueError, TypeError) as error:
                answer.fail(EverupError(f"the keeper could not do it: {error!r}"))

        self.mailbox.put(guarded)

    def status(self) -> dict[str, Any]:
        value = status(self.keeper, self.settings, self.channels.counts, boottime_ns())
        return {
            **value,
            "scheduling": self.scheduling,
            "address": self.door.status(),
            "problem": self.problem,
        }

    def permit(self, answer: Answer, facts: dict[str, Any], cut: list[str]) -> None:
        self._apply(self.keeper.permit(boottime_ns(), facts))
        answer.give({"cut": cut})

    def stand(self, answer: Answer, deadline_ms: int, force: bool, minimum_epoch: int) -> None:
        now_ns = boottime_ns()
        self._waiting["stood"].append(answer)
        self._apply(
            self.keeper.stand(
                now_ns, now_ns + deadline_ms * MS, force=force, minimum_epoch=minimum_epoch
            )
        )

    def release(self, answer: Answer) -> None:
        lease = self.keeper.lease
        silent = True
        if lease is not None:
            silent = self._publish(lease.epoch, 0)
        self._apply(self.keeper.release(boottime_ns(), silent_already=silent))
        answer.give({"released": lease is not None})

    def propose(self, answer: Answer, change: dict[str, Any], deadline_ms: int) -> None:
        now_ns = boottime_ns()
        refusal, output = self.keeper.propose(now_ns, change, now_ns + deadline_ms * MS)
        if not refusal:
            self._waiting["proposed"].append(answer)
        else:
            known = self.keeper.known
            record = None if known is None else known.record.to_json()
            same = refusal == "same"
            answer.give({"committed": same, "record": record, "reason": "" if same else refusal})
        self._apply(output)

    def public(self, answer: Answer, addresses: list[str], interface: str, up: bool) -> None:
        def done(error: EverupError | None) -> None:
            if error is not None:
                answer.fail(error)
            else:
                answer.give({"address": self.door.status()})
            self._note_public()

        if up:
            self.door.up(boottime_ns(), addresses, interface, done)
        else:
            self.door.down(addresses, interface)
            done(None)
        self._public_due_ns = 0

    def reload(self, answer: Answer | None = None) -> None:
        """Read the settings again; an unreadable file changes nothing."""
        settings = read_settings(self.places)
        if settings.server != self.settings.server:
            raise BadInput("the name of a running server cannot change")
        for each in self.channels.sockets:
            self._selector.unregister(each)
        self.settings = settings
        try:
            self.channels.open(settings)
        finally:
            self._register()
        self.door.configure(settings.public)
        now_ns = boottime_ns()
        self._apply(self.keeper.configure(now_ns, settings.members, settings.timing))
        self._found_if_alone()
        if answer is not None:
            answer.give({"members": sorted(settings.members)})

    # beginnings

    def _found_if_alone(self) -> None:
        """A group of one server that has never had a record: this one votes for itself."""
        settings = self.settings
        if settings.group_id and not settings.peers and self.keeper.known is None:
            self._apply(self.keeper.found(boottime_ns(), settings.mode))
            log("founded the group's record: this server alone")

    def _note_public(self) -> None:
        """Remember in this boot's memory which addresses are up, for a restart of the process."""
        path = self.places.run / "keeper.public"
        path.write_text(json.dumps(self.door.wanted()))

    def _restore_public(self) -> None:
        lease, now_ns = self.keeper.lease, boottime_ns()
        if lease is None:
            return
        log(f"found the lease of epoch {lease.epoch} again")
        try:
            self.door.leased(now_ns, lease.deadline_ns)
            wanted = json.loads((self.places.run / "keeper.public").read_text())
            self.door.restore(now_ns, [(str(text), str(name)) for text, name in wanted])
        except FileNotFoundError:
            return
        except (OSError, ValueError, EverupError) as error:
            self.problem = f"the public address was not taken up again: {error}"
            log(self.problem)
