"""House rules that a tool can check."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from everup import errors

ROOT = Path(__file__).parents[2]
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
SOURCES = sorted((ROOT / "src").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
TEXTS = [*SOURCES, *TESTS, *(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "Makefile"]
BANNED = {
    r"\bTODO\b|\bFIXME\b|\bXXX\b": "finish it or leave it out",
    r"shell\s*=\s*True": "no shell strings",
    r"os\.system\(": "no shell strings",
    r"py[p]i[.]org|npm[j]s|deb[.]debian[.]org": "no registry is named here",
}


def test_files_are_short() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in [*SOURCES, *TESTS]
        if (lines := len(path.read_text().splitlines())) > FILE_LINES_MAX
    }
    assert not long


def test_functions_are_short() -> None:
    long = []
    for path in [*SOURCES, *TESTS]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES_MAX:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} {lines}")
    assert not long


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent


@pytest.mark.parametrize("pattern", BANNED)
def test_banned_words(pattern: str) -> None:
    here = Path(__file__)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {BANNED[pattern]}"
        for path in TEXTS
        if path != here
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert not found


def test_no_module_is_dead() -> None:
    """Every module is imported by another one, or is an entry point."""
    text = "\n".join(path.read_text() for path in [*SOURCES, *TESTS])
    text += (ROOT / "pyproject.toml").read_text()
    text += "\n".join(p.read_text() for p in (ROOT / "src").rglob("*.service"))
    dead = []
    for path in SOURCES:
        module = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        if path.name in ("__init__.py", "__main__.py"):
            continue
        package, _, name = module.rpartition(".")
        if package == "everup.cli" and name.endswith("_command"):
            continue  # the command line finds its verbs by this name
        used = re.search(rf"\b{re.escape(module)}\b", text) or re.search(
            rf"from {re.escape(package)} import [^\n]*\b{name}\b", text
        )
        if not used:
            dead.append(module)
    assert not dead


def exit_code_of(kind: str) -> int:
    """Exit code of an error class by its name; classes of a single module count as refusals."""
    found = getattr(errors, kind, errors.EverupError)
    return int(found.exit_code)


def test_error_codes_mean_one_thing() -> None:
    """A code is used with one exit code only, wherever it is raised."""
    uses: dict[str, set[int]] = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            for keyword in node.keywords:
                if keyword.arg == "code" and isinstance(keyword.value, ast.Constant):
                    uses.setdefault(str(keyword.value.value), set()).add(exit_code_of(node.func.id))
    assert not {code: kinds for code, kinds in uses.items() if len(kinds) > 1}


def test_nothing_generated_is_committed() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=30
    ).stdout.splitlines()
    assert not [name for name in listed if name.startswith(("build/", "dist/", ".venv/"))]
