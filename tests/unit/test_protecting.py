"""What of a wish to protect needs a pause of the applications."""

import pytest

from everup.agent.protecting import Wish, needs_a_pause
from everup.config.schema import Application, GroupSettings, ProtectedTree

BEFORE = GroupSettings(
    version=3,
    group="shop",
    group_id="ab" * 16,
    mode="async",
    protect=(ProtectedTree(id=1, path="/srv/a"), ProtectedTree(id=2, path="/srv/b")),
    application=Application(units=("one.service", "two.service")),
)


@pytest.mark.parametrize(
    ("paths", "units", "mode", "pause"),
    [
        (("/srv/a",), (), None, False),
        (("/srv/b", "/srv/a"), ("two.service",), "async", False),
        (("/srv/a",), (), "durable", False),
        (("/srv/a", "/srv/c"), (), None, True),
        (("/srv/a",), ("three.service",), None, True),
    ],
)
def test_only_what_is_new_stops_the_applications(
    paths: tuple[str, ...], units: tuple[str, ...], mode: str | None, pause: bool
) -> None:
    wish = Wish(paths, units, mode)  # type: ignore[arg-type]
    assert needs_a_pause(BEFORE, wish) is pause
