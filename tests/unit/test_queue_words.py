"""What `everup queue` says of a server that another one supplies."""

from typing import Any

from everup.cli.queue_command import lines

DISK = {
    "journal_bytes": 0, "journal_quota_bytes": 1 << 30, "journal_percent": 0, "receive_bytes": 0,
    "divergence_bytes": 0, "free_bytes": 1 << 30,
}  # fmt: skip


def _server(supplied_by: str) -> dict[str, Any]:
    peer = {
        "to": "tertiary", "in_sync": True, "sentence": "", "supplied_by": supplied_by,
        "queue": {"bytes": 0, "operations": 0, "oldest_ms": 0},
    }  # fmt: skip
    return {"server": "primary", "role": "source", "send": [peer], "apply_error": None,
            "receive": None, "disk": DISK}  # fmt: skip


def test_who_passes_the_stream_on_is_said() -> None:
    assert "passed on by secondary" in lines(_server("secondary"))[1]
    assert "passed on" not in lines(_server("primary"))[1]
