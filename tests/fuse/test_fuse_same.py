"""Every case on the lower file system and through the mount: same results, same tree, same journal.

The cases are in cases_*.py, by the rows of docs/formats/operations.md.
"""

from pathlib import Path

import cases_attributes
import cases_content
import cases_creation
import cases_names
import pytest
from differential import Case, cases_of, contents, run_case, view
from guarding import GuardProcess
from replaying import differences

pytestmark = pytest.mark.fuse
CASES = cases_of(cases_names, cases_creation, cases_content, cases_attributes)


@pytest.fixture(scope="module")
def native(shared: GuardProcess) -> Path:
    """A plain directory on the file system that the mount lies over."""
    path = shared.base / "native"
    path.mkdir()
    path.chmod(0o755)
    # Other users must be able to walk to both sides; pytest's directories are private.
    for directory in (shared.base, *shared.base.parents):
        if directory.is_relative_to("/tmp") and directory != Path("/tmp"):
            directory.chmod(directory.stat().st_mode | 0o011)
    return path


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_same(shared: GuardProcess, native: Path, case: Case) -> None:
    name = case.__name__
    plain = run_case(case, native / name)
    mounted = run_case(case, shared.tree / name)
    assert mounted == plain
    assert differences(contents(shared.lower() / name), contents(native / name)) == []
    assert view(shared.tree / name) == view(shared.lower() / name)


def test_zz_the_journal_of_all_cases_gives_the_same_tree(shared: GuardProcess) -> None:
    shared.compare()
