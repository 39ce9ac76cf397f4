"""Everything that one copy keeps before it takes it away, and what people are told about it.

What enters: what `treecopy` says of the objects here. What leaves: a divergence bundle, a
quarantine, their events. Called by the target of a sync; one per attempt.
"""

import sys
from collections.abc import Mapping

from everup.model.words import count_text
from everup.replicate.context import Context
from everup.replicate.divergence import Divergence
from everup.replicate.lower import LowerTree
from everup.replicate.quarantine import Quarantine
from everup.replicate.scan import measure, survey
from everup.replicate.suspects import Suspects, save_suspects, settle


class Kept:
    """`asked`: a person has said that this copy may remove things."""

    def __init__(self, context: Context, suspects: Suspects, *, asked: bool) -> None:
        self._context = context
        self._suspects = suspects
        self._divergence = Divergence(
            context.places.divergence, suspects, context.door, remember=self._remember
        )
        self._quarantine = Quarantine(
            context.places.quarantine, context.group.orphans, asked=asked, door=context.door
        )
        self._names: dict[int, Mapping[int, list[bytes]]] = {}

    def look(self, tree: LowerTree) -> int:
        """Before anything is changed in a tree; returns how many objects it has."""
        if not self._divergence.wanted:
            return measure(tree)[0]
        objects, self._names[tree.tree_id] = survey(tree)
        self._divergence.names = self._names
        return objects

    def keep(self, tree: int, object_id: bytes, path: bytes, descriptor: int) -> None:
        self._divergence.keep(tree, object_id, path, descriptor)

    def placed(
        self, tree: int, object_id: bytes, path: bytes, *, made: bool, directory_changed_ns: int
    ) -> None:
        self._divergence.placed(
            tree, object_id, path, made=made, directory_changed_ns=directory_changed_ns
        )

    def orphan(self, tree: int, path: bytes, descriptor: int) -> None:
        self._quarantine.orphan(tree, path, descriptor)

    def finish(self, trees: Mapping[int, LowerTree]) -> None:
        """The copy is complete. Raises OSError."""
        count = self._divergence.finish(trees)
        if count:
            path = self._divergence.path
            objects = count_text(count, "object")
            self._context.events.emit(
                "divergence",
                f"{objects} that only this server had changed: kept before the group's version "
                f"was taken; look with everup divergence show {path.name if path else ''}",
                severity="critical",
                path=str(path),
                objects=count,
            )
        settle(self._suspects)
        self._save()
        self._finish_orphans()

    def close(self) -> None:
        """Also of a copy that breaks off it is said what became of the orphans."""
        try:
            self._finish_orphans()
        except OSError as problem:
            # The bundle stays unfinished, and is listed as that.
            print(f"everup-replicator: quarantine: {problem}", file=sys.stderr, flush=True)

    def _finish_orphans(self) -> None:
        sentence = self._quarantine.finish()
        if sentence:
            self._context.events.emit("orphans", sentence, severity="warning")

    def _remember(self, name: str) -> None:
        self._suspects.bundle = name
        self._save()

    def _save(self) -> None:
        save_suspects(self._context.places.state, self._suspects, self._context.door)
