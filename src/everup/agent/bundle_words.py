"""Entries of a bundle in words, for the list in an archive and for the command line.

What enters: entries of a manifest, paths as applications know them. What leaves: one line each.
Pure. Called by `bundles`.
"""

from stat import S_IFMT, S_IMODE, S_ISDIR, S_ISLNK, S_ISREG, filemode
from typing import Any

Json = dict[str, Any]

_WHAT = {
    "changed": "changed",
    "renamed": "renamed",
    "only-here": "only here",
    "removed-here": "removed here",
    "absent-here": "not here",
    "orphan": "orphan",
    "": "kept",
}
LEGEND = """\
Each line is an object as this server had it (below before/) and as the group has it (below after/):
  changed       both have it; what differs follows
  renamed       both have it, under different names
  only here     this server had it, the group does not
  removed here  this server had removed it; the group has it, so it is back
  not here      the group has it; this server had removed it, or it was made there since
  orphan        it never came from an active server, and was removed from the protected directory
  kept          the copy broke off before it was known what becomes of it
"""


def line(entry: Json) -> str:
    """One entry. Its sides carry whole paths."""
    before, after = entry.get("before"), entry.get("after")
    side = before or after or {}
    text = f"{_WHAT.get(entry.get('change', ''), 'kept'):<13} {side.get('path', '?')}"
    if before and after and before["path"] != after["path"]:
        text += f" -> {after['path']}"
    facts = _facts(side) if not (before and after) else _differences(before, after)
    more = [name for name in side.get("names", ()) if name != side.get("path")]
    if more:
        facts.append("also named " + ", ".join(more))
    return _printable(f"{text}  ({'; '.join(facts)})" if facts else text)


def _printable(text: str) -> str:
    """One line, whatever somebody has put into a name."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _facts(side: Json) -> list[str]:
    """What an object is that stands alone."""
    mode = int(side.get("mode") or 0)
    found = [filemode(mode), f"owner {side.get('uid')}:{side.get('gid')}"]
    if S_ISREG(mode):
        found.append(f"{side['size']} bytes")
    if S_ISLNK(mode):
        found.append(f"link to {side.get('target')}")
    if "device" in side:
        found.append("device " + ":".join(map(str, side["device"])))
    return found


def _differences(before: Json, after: Json) -> list[str]:
    """What of an object is different on the two sides."""
    found = []
    if S_IFMT(int(before["mode"])) != S_IFMT(int(after["mode"])):
        found.append(f"{filemode(before['mode'])} -> {filemode(after['mode'])}")
    elif before["mode"] != after["mode"]:
        found.append(f"mode {S_IMODE(before['mode']):04o} -> {S_IMODE(after['mode']):04o}")
    for key in ("uid", "gid", "target", "device"):
        if before.get(key) != after.get(key):
            found.append(f"{key} {before.get(key)} -> {after.get(key)}")
    if S_ISREG(before["mode"]) and S_ISREG(after["mode"]):
        if before["size"] != after["size"]:
            found.append(f"{before['size']} -> {after['size']} bytes")
        elif "file" in before:
            found.append(f"{before['size']} bytes")
    names = before["xattrs"].keys() | after["xattrs"].keys()
    for name in sorted(names):
        if before["xattrs"].get(name) != after["xattrs"].get(name):
            found.append(f"attribute {name}")
    if before["mtime_ns"] != after["mtime_ns"] and not S_ISDIR(before["mode"]):
        found.append("modified at another time")
    return found
