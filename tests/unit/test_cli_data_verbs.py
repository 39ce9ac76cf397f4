"""queue, sync, verify and divergence on the command line; bundles as the replicator writes them."""

import os
import sys
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from test_cli_verbs import Served, served  # noqa: F401

from everup.agent.bundles import Bundles
from everup.model.position import ORIGIN
from everup.replicate.divergence import Divergence
from everup.replicate.suspects import Suspects

PATH = "/srv/data"


@pytest.fixture
async def kept(served: Served, tmp_path: Path) -> AsyncIterator[str]:  # noqa: F811
    """A bundle that the real writer has made, served by the agent; its id."""
    lower, root = tmp_path / "lower", tmp_path / "divergence"
    (lower / "orders").mkdir(parents=True)
    root.mkdir()
    file = lower / "orders/day one"
    file.write_bytes(b"written by nobody else" * 1000)
    file.chmod(0o640)
    os.utime(file, ns=(1_700_000_000_000_000_000, 1_700_000_000_000_000_000))
    os.setxattr(file, "user.mark", b"\xff\x00binary")
    suspects = Suspects(fork=ORIGIN, changed_after_ns=0)
    bundle = Divergence(root, suspects)
    for path in ("orders", "orders/day one"):
        descriptor = os.open(lower / path, os.O_PATH)
        bundle.keep(1, os.urandom(16), path.encode(), descriptor)
        os.close(descriptor)
    assert bundle.finish({}) == 2
    served.agent.kept = Bundles((root,), "primary", lambda tree: PATH)
    yield next(root.iterdir()).name


async def test_data_divergence_list_show_export_delete(
    served: Served,  # noqa: F811
    kept: str,
    tmp_path: Path,
) -> None:
    listed = await served.run("divergence", "list")
    assert kept in listed.out and "divergence 2 objects" in listed.out
    shown = (await served.run("divergence", "show", kept, "--json")).json["bundle"]
    assert [o["before"]["path"] for o in shown["objects_kept"]] == [
        f"{PATH}/orders",
        f"{PATH}/orders/day one",
    ]
    people = await served.run("divergence", "show", kept)
    assert (
        f"  only here     {PATH}/orders/day one  (-rw-r-----; owner 0:0; 22000 bytes)" in people.out
    )
    target = tmp_path / "lost.tar"
    done = await served.run("divergence", "export", kept, str(target))
    assert done.code == 0, done.err
    assert target.stat().st_mode & 0o777 == 0o600
    with tarfile.open(target) as archive:
        file = archive.getmember(f"{kept}/before{PATH}/orders/day one")
        content = archive.extractfile(file)
        assert content is not None and content.read() == b"written by nobody else" * 1000
        assert (file.mode, file.mtime) == (0o640, 1_700_000_000)
        assert file.pax_headers["SCHILY.xattr.user.mark"].encode("utf-8", "surrogateescape") == (
            b"\xff\x00binary"
        )
        assert {f"{kept}/manifest.json", f"{kept}/list.txt"} <= {*archive.getnames()}
    again = await served.run("divergence", "export", kept, str(target), "--json")
    assert (again.code, again.json["error"]["code"]) == (1, "file-exists")
    assert (await served.run("divergence", "delete", kept)).code == 0
    assert "There are none" in (await served.run("divergence", "list")).out
    gone = await served.run("--json", "divergence", "show", kept)
    assert (gone.code, gone.json["error"]["code"]) == (1, "unknown-bundle")


async def test_data_an_export_that_breaks_off_leaves_no_file(
    served: Served,  # noqa: F811
    kept: str,
    tmp_path: Path,
) -> None:
    """A file of the bundle is shorter than its manifest says, as on a disk with an error."""
    (content,) = (tmp_path / "divergence" / kept / "before").iterdir()
    os.truncate(content, 100)
    target = tmp_path / "lost.tar"
    done = await served.run("--json", "divergence", "export", kept, str(target))
    assert (done.code, done.json["error"]["code"]) == (1, "broken-off")
    assert not target.exists()
    streamed = await served.run("divergence", "export", kept, "-")
    assert streamed.code == 1 and "not whole" in streamed.err


@pytest.mark.parametrize("name", ["..", "../state", "a/b", "", "x" * 80])
async def test_data_a_bundle_name_never_leaves_its_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "divergence").mkdir()
    bundles = Bundles((tmp_path / "divergence",), "primary", lambda tree: PATH)
    for act in (bundles.show, bundles.delete):
        with pytest.raises(Exception, match="there is no bundle"):
            act(name)
    assert (tmp_path / "state").exists()


async def test_data_queue(served: Served) -> None:  # noqa: F811
    served.agent.reachable["secondary"] = False
    people = await served.run("queue")
    assert people.code == 0, people.err
    assert "not yet sent to secondary" in people.out and "3 operations" in people.out
    assert "(0 %)" in people.out
    assert "80.0 KiB/s sent for 1.0 MiB/s written (1 of 12.5 bytes sent)" in people.out
    assert "capped at 244.1 KiB/s" in people.out
    assert "secondary does not answer" in people.err
    programs = (await served.run("--json", "queue")).json
    assert programs["servers"][0]["send"][0]["queue"]["bytes"] == 4096


async def test_data_verify_and_sync_are_jobs(served: Served) -> None:  # noqa: F811
    result = await served.run("verify", "/srv/data/sub", "--gentle")
    assert (result.code, result.out) == (0, "14 objects are proven equal on secondary\n")
    assert served.agent.calls[-1] == ("verify", "/srv/data/sub", True)
    served.agent.sync["secondary"] = "out-of-sync"
    result = await served.run("--json", "sync", "--allow-removals")
    assert result.json["job"]["state"] == "done"
    assert served.agent.calls[-1] == ("sync", None, True)
    await served.run("protect", "/srv/a")
    last = await served.run("verify", "--last")
    assert "/srv/a on secondary: synchronized; 14 synchronized" in last.out
    tree = await served.run("verify", "--tree", "/srv/a")
    assert tree.out.splitlines() == [
        "/srv/a/                                  secondary: 13 synchronized, 1 unchecked",
        "  orders/                                secondary: 13 synchronized, 1 unchecked",
    ]
    assert served.agent.calls[-1] == ("verified_tree", "/srv/a")
    left = await served.run("verify", "--no-wait")
    assert left.out.startswith("verify is under way (job ")
