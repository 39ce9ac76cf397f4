"""What people are told.

What leaves: `Message`, the same for every way of telling. Made by the agent from an event. Pure.
"""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Message:
    group: str
    server: str
    kind: str
    severity: str
    sentence: str
    at: str
    event_id: int

    @property
    def subject(self) -> str:
        """One line; the sentence says it all, so that a telephone's lock screen is enough."""
        text = f"[Everup {self.group}] {self.sentence}"
        return " ".join(text.split())[:200]

    @property
    def body(self) -> str:
        return (
            f"{self.sentence}\n\n"
            f"Group:    {self.group}\n"
            f"Server:   {self.server}\n"
            f"Event:    {self.kind} (number {self.event_id}, {self.severity})\n"
            f"Time:     {self.at}\n\n"
            "everup status shows how things are now, everup events what happened before.\n"
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
