"""Protected units: held by a drop-in, started in order, stopped in reverse, found again later."""

import asyncio
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))

from fake_systemd import FakeSystemd

from everup.applications.services import Services, UnitWatch, unit_name
from everup.errors import EverupError
from everup.system.systemd import SystemdError, UnitState


@pytest.fixture
def systemd(tmp_path: Path) -> FakeSystemd:
    return FakeSystemd(tmp_path, tmp_path / "active")


@pytest.fixture
def services(tmp_path: Path, systemd: FakeSystemd) -> Services:
    return Services(systemd, tmp_path, tmp_path / "active")


def test_applications_have_full_names() -> None:
    assert unit_name("postgresql@15-main") == "postgresql@15-main.service"
    assert unit_name("backup.timer") == "backup.timer"


async def test_applications_are_held_exactly_as_wanted(
    services: Services, systemd: FakeSystemd, tmp_path: Path
) -> None:
    await services.hold(("db", "web"))
    drop_in = tmp_path / "db.service.d/50-everup.conf"
    assert f"ConditionPathExists={tmp_path / 'active'}" in drop_in.read_text()
    assert "Wants=everup-guard.service" in drop_in.read_text()
    assert "After=everup-guard.service" in drop_in.read_text()
    # A restart of the guard, also systemd's own after its death, must not reach the application.
    for word in ("Requires", "Requisite", "BindsTo", "PartOf"):
        assert f"{word}=" not in drop_in.read_text()
    with pytest.raises(SystemdError):
        await services.start(("db",), 1000)
    await services.hold(("db",))
    assert not (tmp_path / "web.service.d").exists()
    assert {u.name: u.held for u in await services.states(("db",))} == {"db": True}
    await services.hold(())
    assert await services.states(()) == ()


async def test_applications_held_by_an_earlier_life_are_seen(
    services: Services, systemd: FakeSystemd, tmp_path: Path
) -> None:
    await services.hold(("db",))
    again = Services(systemd, tmp_path, tmp_path / "active")
    assert [(u.name, u.held) for u in await again.states(())] == [("db.service", True)]


async def test_applications_start_in_order_and_stop_in_reverse(
    services: Services, systemd: FakeSystemd
) -> None:
    await services.start(("db", "web"), 1000)
    assert await services.stop(("db", "web"), 1000) == []
    assert systemd.calls == [
        "start db.service",
        "start web.service",
        "stop web.service",
        "stop db.service",
    ]


async def test_applications_that_had_to_be_killed_are_named(services: Services) -> None:
    await services.start(("db", "deaf"), 1000)
    assert await services.stop(("db", "deaf"), 1000) == ["deaf"]


async def test_applications_that_cannot_be_stopped_keep_no_other_running(
    services: Services, systemd: FakeSystemd
) -> None:
    stop = systemd.stop

    async def stuck(name: str, deadline_ms: int) -> bool:
        if name == "web.service":
            raise SystemdError("web cannot be stopped")
        return await stop(name, deadline_ms)

    systemd.stop = stuck  # type: ignore[method-assign]
    systemd.active = {"db.service", "web.service"}
    with pytest.raises(SystemdError):
        await services.stop(("db", "web"), 1000)
    assert "db.service" not in systemd.active


async def test_applications_that_do_not_start_stop_the_row(
    services: Services, systemd: FakeSystemd
) -> None:
    with pytest.raises(SystemdError, match="bad"):
        await services.start(("bad", "web"), 1000)
    assert systemd.calls == ["start bad.service"]


async def test_applications_unknown_here_are_named(services: Services) -> None:
    assert await services.missing(("db", "nowhere")) == ["nowhere.service"]


async def test_applications_are_asked_again_after_a_signal_only(
    services: Services, systemd: FakeSystemd
) -> None:
    watch = UnitWatch(services)
    first = await watch.read(("db",), 1000)
    systemd.active.add("db.service")
    assert await watch.read(("db",), 1000) is first
    watch.changed()
    (unit,) = await watch.read(("db",), 1000) or ()
    assert unit.state == "active"


async def test_applications_of_a_silent_systemd_are_unknown(
    services: Services, systemd: FakeSystemd
) -> None:
    async def silent(name: str) -> UnitState:
        raise EverupError("systemd does not answer")

    systemd.state = silent  # type: ignore[method-assign]
    assert await UnitWatch(services).read(("db",), 1000) is None


async def test_applications_of_a_busy_systemd_are_believed_for_a_while(
    services: Services, systemd: FakeSystemd
) -> None:
    """A turn does not wait for it; the answer wakes the next one."""
    woken = asyncio.Event()
    watch = UnitWatch(services, woken.set)
    (unit,) = await watch.read(("db",), 1000) or ()
    assert unit.state == "inactive"
    woken.clear()
    quick, go = systemd.state, asyncio.Event()

    async def busy(name: str) -> UnitState:
        await go.wait()
        return await quick(name)

    systemd.state = busy  # type: ignore[method-assign]
    systemd.active.add("db.service")
    watch.changed()
    (unit,) = await watch.read(("db",), 1000) or ()
    assert unit.state == "inactive"
    go.set()
    await asyncio.wait_for(woken.wait(), 5)
    (unit,) = await watch.read(("db",), 1000) or ()
    assert unit.state == "active"


async def test_applications_stopped_by_a_shutdown_are_seen_with_it(
    services: Services, systemd: FakeSystemd
) -> None:
    await systemd.start("db.service", 1000)
    watch = UnitWatch(services)
    await watch.read(("db",), 1000)
    assert not watch.stopping
    systemd.shut_down = True
    await systemd.stop("db.service", 1000)
    watch.changed()
    units = await watch.read(("db",), 1000)
    assert units is not None and units[0].state == "inactive" and watch.stopping
    with pytest.raises(SystemdError):
        await services.start(("db",), 1000)
