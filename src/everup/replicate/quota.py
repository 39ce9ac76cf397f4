"""How full a log is against its quota, in steps that are worth a word (pure).

What enters: bytes. What leaves: a level and a sentence. Called by the source for the journal and by
the target for the receive log.
"""

LEVELS = (70, 85, 95)
"""Percent; each is said once when it is reached and once when it is left."""


def quota_level(used_bytes: int, quota_bytes: int) -> int:
    """The highest level that is reached; 0 below the first."""
    if quota_bytes <= 0:
        return 0
    return max((level for level in LEVELS if used_bytes * 100 >= quota_bytes * level), default=0)


def quota_sentence(what: str, used_bytes: int, quota_bytes: int) -> str:
    """`what` begins the sentence: "the journal"."""
    percent = used_bytes * 100 // max(quota_bytes, 1)
    return (
        f"{what} holds {used_bytes >> 20} MiB, {percent} % of its quota of {quota_bytes >> 20} MiB"
    )


class QuotaWatch:
    """Remembers what was said last; belongs to one thread."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._level = 0

    def news(self, used_bytes: int, quota_bytes: int) -> tuple[int, str] | None:
        """(level, sentence) when another level holds than the last time, else None.

        A level is left only when 5 % less than it are used, so that nothing flutters.
        """
        level = quota_level(used_bytes, quota_bytes)
        if level < self._level:
            level = min(self._level, quota_level(used_bytes + quota_bytes // 20, quota_bytes))
        if level == self._level:
            return None
        self._level = level
        return level, quota_sentence(self._what, used_bytes, quota_bytes)
