"""What the page of promises and the mutants name exists, and can still be tried."""

import ast
import re
from pathlib import Path

import pytest
from tests.mutants.capture_mutants import CAPTURE
from tests.mutants.mutating import Mutant, mutated
from tests.mutants.proof_mutants import PROOFS
from tests.mutants.replicate_mutants import REPLICATE

ROOT = Path(__file__).parents[2]
ALL = (*CAPTURE, *REPLICATE, *PROOFS)
PROMISES = (
    "single-active", "ordered", "durable", "bounded", "nothing-silent", "no-block", "equal-proof",
)  # fmt: skip
PAGE = (ROOT / "docs" / "promises.md").read_text()
FOLDERS = sorted(path.name for path in (ROOT / "tests").iterdir() if path.is_dir())


def names_of_tests(path: Path) -> set[str]:
    """Names of the test functions of a file."""
    tree = ast.parse(path.read_text())
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test")
    }


def named_in(text: str) -> list[tuple[Path, str]]:
    """Files of tests in a table's cell, each with the test that is named behind it (or none).

    A file without a folder lies beside the one before it.
    """
    found: list[tuple[Path, str]] = []
    folder = ""
    for name in re.findall(r"`([^`]+)`", text):
        file = re.fullmatch(r"(?:tests/)?(?:(\w+)/)?(test_\w+)(\.py)?(?:::(\w+))?(?:\.\.\.)?", name)
        if file is None:
            continue
        if file[3]:
            folder = file[1] or folder
            found.append((ROOT / "tests" / folder / f"{file[2]}.py", file[4] or ""))
        elif found:
            found[-1] = (found[-1][0], file[2])
    return found


def rows_of(promise: str) -> list[str]:
    """First cells of the table below a promise's heading."""
    section = re.search(rf"^## {promise}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert section is not None, f"{promise} has no heading"
    rows = re.findall(r"^\| (.+?) \|", section[1], re.M)
    return [row for row in rows if "breach" not in row and "---" not in row]


@pytest.mark.parametrize("promise", PROMISES)
def test_every_promise_names_tests_that_exist(promise: str) -> None:
    rows = rows_of(promise)
    assert rows, f"{promise} names no test"
    before: list[tuple[Path, str]] = []
    for row in rows:
        named = named_in(row)
        if "the same file" in row:
            named = [(before[-1][0], name.strip("`.")) for name in re.findall(r"`(test_\w+)", row)]
        assert named, f"no file of tests is named in: {row}"
        for path, test in named:
            assert path.exists(), f"{promise}: {path} does not exist"
            known = names_of_tests(path)
            assert not test or any(name.startswith(test) for name in known), f"{path}: no {test}"
        before = named


def test_nothing_else_is_named_that_does_not_exist() -> None:
    """Also outside the tables."""
    for folder, name in re.findall(r"`(?:tests/)?(\w+)/(test_\w+\.py)`", PAGE):
        assert folder in FOLDERS
        assert (ROOT / "tests" / folder / name).exists(), f"{folder}/{name}"


# mutants


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.name)
def test_every_mutant_still_fits(mutant: Mutant) -> None:
    """Its text stands exactly once, what it makes of it is Python, and its test exists."""
    ast.parse(mutated(mutant))
    file, _, test = mutant.test.partition("::")
    assert test.partition("[")[0] in names_of_tests(ROOT / file)


def test_mutants_have_names_of_their_own() -> None:
    assert len({mutant.name for mutant in ALL}) == len(ALL)
    assert len(CAPTURE) >= 12 and len(REPLICATE) >= 12
