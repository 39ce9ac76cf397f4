"""The page of operations names tests that exist, and every case of the comparison is on it."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/formats/operations.md"
NAMED = re.compile(r"`(\w+\.py)::(\w+)`")


def functions_of(name: str) -> set[str]:
    (path,) = (ROOT / "tests").rglob(name)
    nodes = ast.parse(path.read_text()).body
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


def test_every_test_on_the_page_exists() -> None:
    named = NAMED.findall(PAGE.read_text())
    assert len(named) > 50
    missing = [f"{file}::{name}" for file, name in named if name not in functions_of(file)]
    assert missing == []


def test_every_case_is_on_the_page() -> None:
    named = set(NAMED.findall(PAGE.read_text()))
    cases = {
        (path.name, name)
        for path in (ROOT / "tests/fuse").glob("cases_*.py")
        for name in functions_of(path.name)
        if not name.startswith("_")
    }
    assert cases - named == set()


def test_every_row_has_a_test() -> None:
    """Only what nobody can test here may have none, and says `–`."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    bare = [row for row in rows if "---" not in row and not NAMED.search(row)]
    bare = [row for row in bare if not row.endswith("| test |")]
    assert all(row.endswith("| – |") for row in bare) and len(bare) <= 2
