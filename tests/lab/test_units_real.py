"""The contract of units over D-Bus, kept by a real systemd on a server of the lab."""

from pathlib import Path

import pytest
from tests.lab.ground import Ground

pytestmark = [pytest.mark.lab]

STORY = Path(__file__).parents[1] / "contract/units_story.py"


def test_applications_story_holds_with_systemd(ground: Ground) -> None:
    server = ground.server(ground.passive)
    words = ["/opt/everup/bin/python", "-", "/run/everup-story-flag"]
    done = server.run(words, stdin=STORY.read_text(), timeout_s=120)
    assert done.output.strip().endswith("kept")
