"""Which tests can run here, and the last line of every run.

A test that needs root, real mounts, whole machines or a browser carries a mark. Where that is
missing the test is skipped and the reason is listed at the end; where it must be there (as root,
or with CI=true) such a skip is a failure, unless tests/skips.toml names the test and says why.
"""

import os
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, settings

# For the mutants: the same examples every time, and no time spent on making them smaller.
settings.register_profile(
    "quick", derandomize=True, database=None, phases=(Phase.explicit, Phase.generate)
)

HERE = Path(__file__).parent
ORDER = ("unit", "tidy", "scenarios", "contract", "sim", "fuse", "mutants", "browser", "lab")
STRICT = os.environ.get("CI") == "true" or os.geteuid() == 0


def _missing(mark: str) -> str | None:
    """Why tests with this mark cannot run here."""
    if mark in ("fuse", "netns", "lab") and os.geteuid() != 0:
        return f"{mark} tests need root"
    if mark == "fuse" and not Path("/dev/fuse").exists():
        return "there is no /dev/fuse here"
    if mark == "netns" and shutil.which("nft") is None:
        return "nftables is not installed"
    if mark == "lab" and shutil.which("systemd-nspawn") is None:
        return "systemd-nspawn is not installed"
    if mark == "browser" and shutil.which("chromium") is None:
        return "Chromium is not installed"
    return None


def _allowed_skips() -> dict[str, str]:
    with (HERE / "skips.toml").open("rb") as file:
        return {entry["test"]: entry["reason"] for entry in tomllib.load(file).get("skip", [])}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(HERE).parts[0]
        return ORDER.index(folder) if folder in ORDER else len(ORDER)

    items.sort(key=place)
    for item in items:
        for mark in ("fuse", "netns", "lab", "browser"):
            if item.get_closest_marker(mark) and (reason := _missing(mark)):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = _reason(report)
        if STRICT and item.nodeid not in _allowed_skips():
            report.outcome = "failed"
            report.longrepr = f"{reason}: a skip is a failure here, see tests/skips.toml"
    return report


def _reason(report: pytest.TestReport) -> str:
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.stats.get("skipped", []):
        terminalreporter.write_line(f"skipped {report.nodeid}: {_reason(report)}")


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput") or config.option.collectonly:
        return
    count = {kind: len(reporter.stats.get(kind, [])) for kind in ("passed", "failed", "error")}
    skipped = len(reporter.stats.get("skipped", []))
    failed = count["failed"] + count["error"]
    print(f"\n{count['passed']} passed, {failed} failed, {skipped} skipped")
