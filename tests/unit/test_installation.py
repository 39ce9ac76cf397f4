"""Installing writes what is needed, once, and nothing that a second run changes again."""

import configparser
from importlib import resources
from pathlib import Path

import pytest

from everup.errors import EverupError
from everup.places import Places
from everup.system.installation import (
    SERVER_UNITS,
    WITNESS_UNITS,
    install,
    order_after_mounts,
    root_of,
)


def unit(root: Path, name: str) -> dict[str, list[str]]:
    """Keys of a unit file; a key may stand several times."""
    keys: dict[str, list[str]] = {}
    for line in (root / "etc/systemd/system" / name).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            keys.setdefault(key, []).append(value)
    return keys


def test_install_twice_changes_nothing_the_second_time(tmp_path: Path) -> None:
    places = Places.below(tmp_path)
    assert all(step.changed for step in install(places, Path("/opt/everup")))
    assert not any(step.changed for step in install(places, Path("/opt/everup")))
    assert root_of(places) == tmp_path


def test_install_keeps_secrets_private_and_the_socket_reachable(tmp_path: Path) -> None:
    places = Places.below(tmp_path)
    install(places, Path("/opt/everup"))
    for directory in (places.tls, places.var, places.state, places.journal, places.divergence):
        assert directory.stat().st_mode & 0o777 == 0o700, directory
    assert places.run.stat().st_mode & 0o777 == 0o711


def test_install_units_run_our_python_only_with_settings(tmp_path: Path) -> None:
    install(Places.below(tmp_path), Path("/opt/everup"))
    for name in (*SERVER_UNITS, *WITNESS_UNITS):
        keys = unit(tmp_path, name)
        assert keys["ExecStart"][0].startswith("/opt/everup/bin/python -m everup."), name
        assert keys["ConditionPathExists"] == ["/etc/everup/server.toml"], name
        assert "@" not in "".join(v for values in keys.values() for v in values), name


def test_install_hide_comes_before_disks_and_network(tmp_path: Path) -> None:
    install(Places.below(tmp_path), Path("/opt/everup"))
    keys = unit(tmp_path, "everup-hide.service")
    assert keys["DefaultDependencies"] == ["no"]
    assert {"local-fs.target", "network-pre.target"} <= set(" ".join(keys["Before"]).split())
    assert "/var/lib/everup" in keys["RequiresMountsFor"][0].split()


@pytest.mark.parametrize("name", ["everup-guard.service", "everup-hide.service"])
def test_install_mounting_units_share_the_mounts_of_the_host(tmp_path: Path, name: str) -> None:
    install(Places.below(tmp_path), Path("/opt/everup"))
    makes_a_namespace = {
        "PrivateTmp", "ProtectSystem", "ProtectHome", "ReadOnlyPaths", "ReadWritePaths",
        "InaccessiblePaths", "PrivateDevices", "PrivateMounts", "ProtectKernelTunables",
        "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups", "BindPaths",
        "RootDirectory", "TemporaryFileSystem", "ProtectProc", "StateDirectory", "DynamicUser",
        "ProtectHostname", "MountFlags", "LoadCredential",
    }  # fmt: skip
    assert not makes_a_namespace & set(unit(tmp_path, name))


def test_install_every_unit_text_is_listed() -> None:
    texts = {p.name for p in resources.files("everup.system").joinpath("units").iterdir()}
    assert texts == {*SERVER_UNITS, *WITNESS_UNITS}
    for name in texts:
        text = resources.files("everup.system").joinpath("units", name).read_text()
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        parser.read_string(text)
        assert {"Unit", "Service", "Install"} == set(parser.sections()), name


def test_install_does_not_replace_a_foreign_command(tmp_path: Path) -> None:
    foreign = tmp_path / "usr/local/bin/everup"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("#!/bin/sh\n")
    with pytest.raises(EverupError) as caught:
        install(Places.below(tmp_path), Path("/opt/everup"))
    assert caught.value.code == "foreign-file"
    assert foreign.read_text() == "#!/bin/sh\n"


def test_install_waits_for_the_disks_of_protected_paths(tmp_path: Path) -> None:
    places = Places.below(tmp_path)
    assert order_after_mounts(places, ["/srv/data 100%"])
    assert not order_after_mounts(places, ["/srv/data 100%"])
    text = (
        tmp_path / "etc/systemd/system/everup-hide.service.d/50-protected-paths.conf"
    ).read_text()
    assert 'RequiresMountsFor="/srv/data 100%%"' in text
