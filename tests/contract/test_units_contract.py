"""The same story for the systemd in memory and for the real one."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from fake_systemd import FakeSystemd  # noqa: E402
from units_story import story  # noqa: E402


async def test_applications_story_holds_in_memory(tmp_path: Path) -> None:
    flag = tmp_path / "active"
    await story(FakeSystemd(tmp_path, flag), tmp_path, flag)
