"""Mistakes in what is kept, proven and said about equality."""

from tests.mutants.mutating import Mutant

BUNDLE = "tests/unit/test_bundle.py::"
DIVERGENCE = "tests/contract/test_replicate_divergence.py::"
EVERY_CHANGE = f"{DIVERGENCE}test_every_change_that_nobody_received_is_in_the_bundle"
VERIFYING = "tests/unit/test_verifying.py::"
STATES = "tests/unit/test_file_states.py::"
EXPORT = "tests/unit/test_cli_data_verbs.py::test_data_an_export_that_breaks_off_leaves_no_file"

PROOFS = (
    Mutant(
        "removal_of_the_old_active_not_named",
        "replicate/divergence.py",
        "            self._made[key] = REMOVED_HERE\n",
        "            pass\n",
        EVERY_CHANGE,
    ),
    Mutant(
        "what_the_copy_made_kept_as_if_it_had_been_here",
        "replicate/treecopy.py",
        "        if not made:\n            self._keeping.keep(",
        "        if path:\n            self._keeping.keep(",
        EVERY_CHANGE,
    ),
    Mutant(
        "file_that_a_rename_replaced_not_suspect",
        "replicate/suspects.py",
        "                    suspects.objects.add((record.tree, move.replaced_id))\n",
        "                    pass\n",
        EVERY_CHANGE,
    ),
    Mutant(
        "second_attempt_keeps_the_group_s_version",
        "replicate/bundle.py",
        "        if name and (root / name / LINES).exists():\n",
        "        if name is None:\n",
        f"{BUNDLE}test_the_first_version_stays_when_a_copy_begins_again",
    ),
    Mutant(
        "own_changes_make_objects_suspect",
        "replicate/divergence.py",
        "                self._clear.add(key)\n",
        "",
        f"{BUNDLE}test_the_first_look_decides_not_what_the_copy_has_changed",
    ),
    Mutant(
        "orphan_removed_without_a_copy",
        "replicate/treecopy.py",
        "            self._keeping.orphan(self.tree.tree_id, path, descriptor)\n",
        "            pass\n",
        f"{DIVERGENCE}test_what_never_came_from_a_source_is_quarantined",
    ),
    Mutant(
        "cut_archive_ends_like_a_whole_one",
        "api/data_routes.py",
        "        if whole:\n",
        "        if whole is not None:\n",
        EXPORT,
    ),
    Mutant(
        "cut_archive_stays_on_the_disk",
        "cli/divergence_command.py",
        "        target.unlink()\n",
        "",
        EXPORT,
    ),
    Mutant(
        "busy_objects_called_equal",
        "replicate/verifying.py",
        '["objects"] - verification.busy\n',
        '["objects"]\n',
        f"{VERIFYING}test_what_was_too_busy_is_not_called_equal",
    ),
    Mutant(
        "broken_verification_taken_for_a_whole_one",
        "replicate/verifying.py",
        "            if verification.whole and verification.error is None:\n",
        "            if verification.whole or verification.error:\n",
        f"{VERIFYING}test_a_mistake_of_ours_is_an_error_and_no_proof",
    ),
    Mutant(
        "missing_path_verified_as_equal",
        "replicate/counting.py",
        "                os.close(_open(context, tree, path))\n",
        "                pass\n",
        f"{STATES}test_a_path_that_is_not_there_is_refused",
    ),
    Mutant(
        "doubt_forgotten",
        "agent/verify_due.py",
        "    if known.doubt_s > (known.proven_s or 0.0):\n",
        "    if known.doubt_s > 0 and known.proven_s is None:\n",
        "tests/unit/test_verify_due.py::test_a_doubt_counts_until_the_next_proof",
    ),
    Mutant(
        "failed_verification_repeated_at_once",
        "agent/verify_due.py",
        "0 <= now_s - tried_s < AGAIN_S",
        "0 <= now_s - tried_s < 1",
        "tests/unit/test_verify_due.py::test_an_attempt_that_failed_is_not_repeated_at_once",
    ),
)
