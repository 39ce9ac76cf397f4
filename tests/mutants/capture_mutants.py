"""Mistakes in the way from an application's request to a closed batch of the journal."""

from tests.mutants.mutating import Mutant

ORDER = "tests/fuse/test_property_order.py::"
STEPS = "tests/fuse/test_property_capture.py::"
DISK = "tests/fuse/test_fuse_disk.py::"
GATE = "tests/fuse/test_fuse_gate.py::"

CAPTURE = (
    Mutant(
        "append_skipped",
        "capture/order.py",
        "            self.journal.append(\n                operation, tree",
        "            operation != Operation.UNLINK and self.journal.append(\n"
        "                operation, tree",
        f"{ORDER}test_nothing_is_answered_before_its_record",
    ),
    Mutant(
        "answered_before_the_record",
        "capture/changing.py",
        "        if written != len(data):\n            data = data[:written]\n        with",
        "        if written != len(data):\n            data = data[:written]\n"
        "        request.session.answer(unique, protocol.WRITE_OUT.pack(written))\n        with",
        f"{ORDER}test_nothing_is_answered_before_its_record",
    ),
    Mutant(
        "order_lock_not_held",
        "capture/changing.py",
        "            data = data[:written]\n        with order.lock:\n",
        "            data = data[:written]\n        if True:\n",
        f"{ORDER}test_writers_of_different_files",
    ),
    Mutant(
        "replaced_object_ignored_on_rename",
        "capture/renaming.py",
        "        replaced_id = new.object_id if new else NO_OBJECT\n",
        "        replaced_id = NO_OBJECT\n",
        f"{ORDER}test_names_change_in_an_order_that_every_thread_agrees_with",
    ),
    Mutant(
        "copied_object_id_believed",
        "system/objectid.py",
        "    if value[OBJECT_ID_BYTES:] != bytes((handle.kind & 0xFF,)) + handle.data:\n",
        "    if len(value) < OBJECT_ID_BYTES:\n",
        "tests/unit/test_fuzz_state.py::test_an_id_counts_for_its_own_carrier_only",
    ),
    Mutant(
        "paths_not_forgotten_when_a_directory_moves",
        "capture/lower.py",
        "            self.descriptors.forget_hints()\n",
        "            pass\n",
        f"{STEPS}test_steps_that_meet_something_remembered",
    ),
    Mutant(
        "default_access_list_cached_for_ever",
        "capture/changing.py",
        "        hot.default_acl = present\n",
        "        pass\n",
        f"{STEPS}test_steps_that_meet_something_remembered",
    ),
    Mutant(
        "short_write_recorded_as_whole",
        "capture/changing.py",
        "            data = data[:written]\n        with",
        "            pass\n        with",
        f"{DISK}test_a_short_write_is_recorded_as_what_was_written",
    ),
    Mutant(
        "deadline_not_looked_at_before_the_answer",
        "capture/order.py",
        "        if not self.in_time():\n            self.late_answers += 1\n",
        "        if False:\n            self.late_answers += 1\n",
        f"{DISK}test_a_change_that_took_longer_than_the_lease_is_not_acknowledged",
    ),
    Mutant(
        "lease_of_another_epoch_counts",
        "capture/order.py",
        "        return epoch == self.epoch and boottime_ns() < deadline_ns\n",
        "        return boottime_ns() < deadline_ns\n",
        f"{GATE}test_another_epochs_lease_counts_for_nothing",
    ),
    Mutant(
        "one_server_is_enough_for_a_durable_sync",
        "capture/order.py",
        "        up_to = min((self._acknowledged",
        "        up_to = max((self._acknowledged",
        f"{GATE}test_durable_fsync_waits_for_every_named_server",
    ),
    Mutant(
        "sync_answered_before_the_disk_has_it",
        "capture/syncing.py",
        "            os.fdatasync(hot.descriptor)\n",
        "            pass\n",
        f"{DISK}test_what_was_synced_survives_a_power_cut",
    ),
    Mutant(
        "changes_not_counted_for_the_sync",
        "capture/unsynced.py",
        "            self._changes[object_id] = self._count\n",
        "            pass\n",
        f"{DISK}test_what_was_synced_survives_a_power_cut",
    ),
    Mutant(
        "intent_not_written",
        "capture/slots.py",
        "        _INTENT.pack_into(self._memory, 0, loser, first, second, unique)\n",
        "        pass\n",
        "tests/unit/test_capture_memory.py"
        "::test_slot_is_found_with_the_intent_of_its_own_request_only",
    ),
    Mutant(
        "truncate_not_recorded",
        "capture/changing.py",
        '            order.record(tree, Operation.TRUNCATE, object_id, arguments, b"", last)\n',
        "",
        f"{STEPS}test_one_thread_sees_a_plain_directory",
    ),
    Mutant(
        "hole_punched_but_not_recorded",
        "capture/changing.py",
        'order.record(tree, Operation.ALLOCATE, object_id, arguments, b"", request)',
        "pass",
        f"{STEPS}test_one_thread_sees_a_plain_directory",
    ),
    Mutant(
        "time_not_recorded_at_the_end_of_a_batch",
        "capture/order.py",
        "self.journal.close_batch(cause, self._times())",
        "self.journal.close_batch(cause, [])",
        f"{ORDER}test_writers_of_different_files",
    ),
    Mutant(
        "directory_not_touched_by_a_removal",
        "capture/naming.py",
        "        order.touch(tree, above)\n        value = Unlink(",
        "        value = Unlink(",
        f"{STEPS}test_one_thread_sees_a_plain_directory",
    ),
    Mutant(
        "open_file_dropped_with_its_last_name",
        "capture/naming.py",
        "    if status.st_nlink > 1:\n",
        "    if status.st_nlink:\n",
        f"{STEPS}test_an_unlinked_file_that_is_open_outlives_the_worker",
    ),
    Mutant(
        "descriptor_closed_while_in_use",
        "capture/descriptors.py",
        "            if stamp < oldest:\n",
        "            if stamp <= oldest:\n",
        "tests/unit/test_capture_memory.py"
        "::test_descriptor_is_closed_only_when_no_request_can_use_it",
    ),
    Mutant(
        "check_sum_of_a_record_not_compared",
        "journal/record.py",
        "    if crc32c(data[offset + CHECKED_FROM : end]) != check:\n",
        "    if not crc32c(data[offset + CHECKED_FROM : end]):\n",
        "tests/unit/test_fuzz_journal.py::test_a_flipped_bit_of_a_record_is_refused",
    ),
    Mutant(
        "records_left_out_of_the_chain",
        "journal/writer.py",
        "        checksum = chain(self._start, body)\n",
        "        checksum = chain(self._start, b'')\n",
        "tests/unit/test_journal.py::test_batches_come_back_as_written",
    ),
    Mutant(
        "torn_tail_kept",
        "journal/writer.py",
        "        self._file.open_at(path, result.end_offset)\n",
        "        self._file.open_at(path, path.stat().st_size)\n",
        "tests/unit/test_fuzz_journal.py::test_a_torn_tail_is_written_over",
    ),
    Mutant(
        "open_batch_in_the_memory_of_the_process",
        "journal/writer.py",
        "        self._open = OpenBatch(memory)\n",
        "        self._open = OpenBatch()\n",
        "tests/unit/test_journal.py::test_records_of_an_open_batch_survive_the_process",
    ),
    Mutant(
        "activity_mark_not_written",
        "capture/checkpoints.py",
        "            save_mark(self._places.state, Mark(closed.position, now_ns))\n",
        "",
        f"{DISK}test_what_the_activity_mark_says_survives_a_power_cut",
    ),
    Mutant(
        "activity_mark_before_the_trees_are_on_the_disk",
        "capture/checkpoints.py",
        "                sync_filesystem(descriptor)\n",
        "                pass\n",
        f"{DISK}test_what_the_activity_mark_says_survives_a_power_cut",
    ),
    Mutant(
        "segments_deleted_that_somebody_lacks",
        "capture/control.py",
        "            if following.first_sequence > up_to + 1:\n",
        "            if following.first_sequence > up_to + (1 << 40):\n",
        f"{GATE}test_segments_are_released_up_to_a_sequence",
    ),
    Mutant(
        "segments_deleted_behind_the_activity_mark",
        "capture/control.py",
        "            up_to = min(up_to, needed_after)\n",
        "            up_to = max(up_to, needed_after)\n",
        f"{GATE}test_segments_are_released_up_to_a_sequence",
    ),
    Mutant(
        "open_batch_left_out_of_the_activity",
        "journal/activity.py",
        "        for record in end.loose:\n            yield self._noted(record)\n",
        "",
        "tests/unit/test_property_activity.py::test_everything_behind_the_mark_is_named",
    ),
)
