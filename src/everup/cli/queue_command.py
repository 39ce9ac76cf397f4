"""`everup queue`: how much is on its way, and how full the room for it is."""

from typing import Any

import typer

from everup.cli.client import Client, wants_json
from everup.cli.options import JsonFlag, verb_app
from everup.cli.output import bytes_text, duration_text, link_text, print_json, say
from everup.model.words import count_text

app = verb_app()
Json = dict[str, Any]


@app.command(epilog="Examples:  everup queue  |  everup queue --json")
def queue(context: typer.Context, json: JsonFlag = False) -> None:
    """Show what only the active server has, what is received and not yet applied, and the disks.

    Not yet sent is at risk: it would be lost with the active server. Not yet applied is safe.
    """
    found = Client.of(context).get("/v1/group/queues")
    if wants_json(context):
        print_json(found)
        return
    for server in found["servers"]:
        for text in lines(server):
            typer.echo(text)
    for name in found["unreachable"]:
        say(f"({name} does not answer: its queues are not known)")


def lines(server: Json) -> list[str]:
    """One server for people."""
    texts = [f"{server['server']}"]
    for peer in server["send"]:
        state = "" if peer["in_sync"] else f"  ({peer['sentence'] or 'not connected'})"
        if peer.get("supplied_by", "") not in ("", server["server"]):
            state = f", passed on by {peer['supplied_by']}{state}"
        texts.append(f"  not yet sent to {peer['to']:<12} {amounts(peer['queue'])}{state}")
        if peer.get("bytes_sent"):
            texts.append(f"  going to {peer['to']:<19} {link_text(peer)}")
    if server["role"] == "target":
        texts.append(f"  not yet applied {'':<12} {amounts(server['receive'])}")
    if server["apply_error"]:
        texts.append(f"  applying has stopped: {server['apply_error']['sentence']}")
    disk = server["disk"]
    texts.append(
        f"  journal {bytes_text(disk['journal_bytes'])} of "
        f"{bytes_text(disk['journal_quota_bytes'])} ({disk['journal_percent']} %), received "
        f"{bytes_text(disk['receive_bytes'])}, divergence {bytes_text(disk['divergence_bytes'])}, "
        f"free {bytes_text(disk['free_bytes'])}"
    )
    return texts


def amounts(queue: Json) -> str:
    """Bytes, operations and age."""
    if not queue["operations"] and not queue["bytes"]:
        return "nothing"
    return (
        f"{bytes_text(queue['bytes'])} in {count_text(queue['operations'], 'operation')}, "
        f"oldest {duration_text(queue['oldest_ms'])}"
    )
