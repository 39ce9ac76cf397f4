"""Mistakes in the way from a closed batch to an equal tree on another server."""

from tests.mutants.mutating import Mutant

ALONE = "tests/contract/test_property_applier.py::"
PROOF = "tests/contract/test_property_proof.py::"
DISK = "tests/contract/test_replicate_disk.py::"
ROLES = "tests/contract/test_replicate_roles.py::"
SHORT = "tests/contract/test_property_window.py::"
ORDINARY = f"{ALONE}test_any_groups_and_stops_end_with_the_same_tree"

REPLICATE = (
    Mutant(
        "acknowledged_before_it_is_on_the_disk",
        "replicate/receivelog.py",
        "        assert self.end is not None\n        self._file.sync()\n",
        "        assert self.end is not None\n",
        f"{DISK}test_nothing_is_acknowledged_before_it_is_on_the_disk",
    ),
    Mutant(
        "unsynced_bytes_kept_after_a_failed_sync",
        "replicate/target.py",
        "            self.log.rewind()\n",
        "            pass\n",
        f"{DISK}test_a_failed_sync_acknowledges_nothing_and_writes_again",
    ),
    Mutant(
        "one_record_dropped",
        "replicate/applier.py",
        "            for record in records:\n                apply_record(trees, record)\n",
        "            for record in records[1:] if len(records) > 4 else records:\n"
        "                apply_record(trees, record)\n",
        ORDINARY,
    ),
    Mutant(
        "times_not_applied",
        "replicate/apply.py",
        "            trees.get(tree_id).set_time(object_id, mtime_ns, record.sequence)\n",
        "            trees.get(tree_id)\n",
        ORDINARY,
    ),
    Mutant(
        "window_without_displacement",
        "replicate/names.py",
        "        elif self.window is not None:\n"
        "            self._displace(directory, name, object_id)\n",
        "",
        f"{SHORT}test_every_window_of_a_short_script",
    ),
    Mutant(
        "what_is_removed_later_is_missed",
        "replicate/window.py",
        "                self._removed[record.tree, record.object_id] = record.sequence\n",
        "                self._removed[record.tree, record.object_id] = 0\n",
        "tests/contract/test_replicate_window.py"
        "::test_replay_from_any_later_state_gives_the_same_tree[22]",
    ),
    Mutant(
        "no_window_after_a_start",
        "replicate/applier.py",
        "        self._trees.set_window(window)\n",
        "",
        "tests/contract/test_replay_after_start.py::test_a_start_replays_onto_trees_that_are_ahead",
    ),
    Mutant(
        "name_not_checked_before_it_is_removed",
        "replicate/names.py",
        "        present = id_of_name(directory, arguments.name)\n"
        "        if present != record.object_id:\n",
        "        present = id_of_name(directory, arguments.name)\n        if present is None:\n",
        f"{SHORT}test_a_name_that_holds_another_object_is_never_removed",
    ),
    Mutant(
        "position_saved_before_the_trees_are_synced",
        "replicate/applier.py",
        "        self._trees.sync()\n"
        "        save_tree_state(self._tree_path, TreeState(AT, self.applied), self._door)\n",
        "        save_tree_state(self._tree_path, TreeState(AT, self.applied), self._door)\n"
        "        self._trees.sync()\n",
        f"{ALONE}test_a_position_is_saved_only_when_the_trees_are_synced_there",
    ),
    Mutant(
        "older_epoch_may_take_over_the_stream",
        "replicate/target.py",
        "            check_epoch(epoch, self.seal_promise.epoch, source)\n",
        "",
        f"{ALONE}test_a_stream_of_an_older_epoch_than_promised_is_refused",
    ),
    Mutant(
        "epoch_not_checked_where_it_is_received",
        "replicate/target.py",
        "        check_epoch(epoch, self.seal_promise.epoch, self.source)\n",
        "",
        f"{ALONE}test_nothing_is_received_once_a_newer_epoch_is_promised",
    ),
    Mutant(
        "epoch_of_a_batch_not_compared_with_its_stream",
        "replicate/target.py",
        "            if checked.end.epoch > epoch:\n",
        "            if False:\n",
        f"{ALONE}test_a_batch_of_a_newer_epoch_than_its_stream_is_refused",
    ),
    Mutant(
        "promise_of_an_epoch_not_saved",
        "replicate/seal.py",
        '        save_json(self._path, {"epoch": epoch}, operation="save-seal", door=self._door)\n',
        "",
        f"{ROLES}test_seal_holds_across_a_kill",
    ),
    Mutant(
        "chain_hash_not_compared",
        "replicate/receivelog.py",
        "            and end.checksum == chain(start, body)\n",
        "",
        f"{ALONE}test_records_of_another_history_are_refused",
    ),
    Mutant(
        "torn_batch_accepted",
        "replicate/receivelog.py",
        "        if not right:\n",
        "        if last.epoch < start.epoch:\n",
        "tests/unit/test_fuzz_journal.py::test_batches",
    ),
    Mutant(
        "position_found_by_its_number_alone",
        "journal/reader.py",
        "            if self.position == after:\n",
        "            if self.position.sequence == after.sequence:\n",
        "tests/unit/test_journal.py::test_cursor_refuses_a_fork",
    ),
    Mutant(
        "blocks_always_equal",
        "replicate/prooftarget.py",
        "            if hash_block(file, block, size, mark_holes=False)\n"
        "            != item.hashes",
        "            if not hash_block(file, block, size, mark_holes=False)\n"
        "            and not item.hashes",
        f"{PROOF}test_one_difference_is_told",
    ),
    Mutant(
        "digests_always_equal",
        "replicate/prooftarget.py",
        "        differs = bool(item.digest) and mine != item.digest\n",
        "        differs = not mine\n",
        f"{PROOF}test_one_difference_is_told",
    ),
    Mutant(
        "failures_of_the_proof_ignored",
        "replicate/proofsource.py",
        "            failures = self._await(Proved).failures\n",
        "            failures = self._await(Proved).failures[:0]\n",
        f"{ROLES}test_a_silently_changed_passive_is_found_by_the_proof",
    ),
    Mutant(
        "copy_counts_without_its_proof",
        "replicate/target.py",
        "        return self._context.unproven_path.exists()\n",
        "        return False\n",
        f"{ROLES}test_a_copy_that_was_not_proven_is_proven_before_it_counts",
    ),
    Mutant(
        "divergence_not_kept",
        "replicate/divergence.py",
        "        self._bundle.keep(key, path, descriptor, names)\n",
        "",
        f"{ROLES}test_what_the_old_active_wrote_alone_is_kept",
    ),
    Mutant(
        "unreadable_journal_makes_nobody_suspect",
        "replicate/suspects.py",
        "    if not whole:\n        suspects.changed_after_ns = 0\n",
        "    if whole is None:\n        suspects.changed_after_ns = 0\n",
        "tests/unit/test_suspects.py::test_a_damaged_journal_makes_everything_suspect",
    ),
    Mutant(
        "removals_from_an_empty_source",
        "replicate/synctarget.py",
        "        if asks_first(removing, self._objects_before, percent_max):\n",
        "        if removing < 0:\n",
        f"{ROLES}test_an_emptied_source_does_not_empty_the_target",
    ),
    Mutant(
        "streamed_over_an_unclean_stop",
        "replicate/catchup.py",
        "    if position.epoch < unclean_epoch:\n",
        "    if position.epoch < 0:\n",
        "tests/unit/test_replicate_decisions.py::test_every_case_has_its_sentence",
    ),
    Mutant(
        "doubtful_content_not_compared",
        "replicate/rejoin.py",
        "        return self.scope.runs(tree, object_id)\n",
        "        return []\n",
        "tests/contract/test_replicate_rejoin.py"
        "::test_only_what_the_disk_may_have_lost_is_compared",
    ),
    Mutant(
        "records_behind_the_mark_forgotten",
        "journal/activity.py",
        "        for record in end.loose:\n",
        "        for record in end.loose[:0]:\n",
        "tests/unit/test_activity.py::test_what_lies_behind_the_mark_is_doubtful",
    ),
    Mutant(
        "check_sum_of_a_frame_not_compared",
        "wire/frames.py",
        "            if crc32c(payload) != check:\n",
        "            if payload is None:\n",
        "tests/unit/test_wire_frames.py::test_a_flipped_bit_is_never_taken_for_a_frame",
    ),
    Mutant(
        "length_of_a_frame_not_bounded",
        "wire/frames.py",
        "            _check_length(kind, length)\n            end = offset",
        "            end = offset",
        "tests/unit/test_fuzz_wire.py"
        "::test_a_length_that_is_too_large_is_refused_before_anything_is_held",
    ),
)
