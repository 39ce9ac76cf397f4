"""Everything that may be refused or go wrong, as exceptions with a stable code.

What enters: a sentence for a person and a remedy. What leaves: the same, as JSON for programs and
as an exit code for the shell. Every layer raises these; `cli` and `api` print them.
"""

from typing import ClassVar

EXIT_DONE = 0
EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_DEADLINE = 3
EXIT_NOT_CONNECTED = 4


class EverupError(Exception):
    """Root of all errors of Everup.

    `code` never changes its meaning once released; sentences may. `remedy` tells what a person can
    do next. A subclass fixes the exit code, an instance may narrow the error code.
    """

    code: str = "failed"
    exit_code: ClassVar[int] = EXIT_REFUSED

    def __init__(self, sentence: str, *, remedy: str = "", code: str | None = None) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.remedy = remedy
        if code is not None:
            self.code = code

    def to_json(self) -> dict[str, str]:
        """The shape that every interface of Everup uses for an error."""
        return {"code": self.code, "sentence": self.sentence, "remedy": self.remedy}


class Refused(EverupError):
    """The request is understood and will not be done; nothing has changed."""

    code = "refused"


class BadInput(EverupError):
    """The operator's input is wrong: usage, settings, a name."""

    code = "bad-input"
    exit_code = EXIT_USAGE


class DeadlinePassed(EverupError):
    """The time allowed is over; the work may still be going on."""

    code = "deadline-passed"
    exit_code = EXIT_DEADLINE


class NotConnected(EverupError):
    """The process or server that should answer cannot be reached."""

    code = "not-connected"
    exit_code = EXIT_NOT_CONNECTED


class Corrupt(EverupError):
    """Stored or received bytes are not what was written; nothing was read from them."""

    code = "corrupt"


class ProtocolError(EverupError):
    """The peer sent something that the protocol does not allow here; the connection ends."""

    code = "protocol"


def error_from_json(value: dict[str, str]) -> EverupError:
    """Rebuild an error that crossed a socket; unknown codes become the root class."""
    sentence = value.get("sentence", "unknown error")
    remedy = value.get("remedy", "")
    code = value.get("code", EverupError.code)
    for kind in (DeadlinePassed, NotConnected, BadInput, Corrupt, ProtocolError, Refused):
        if kind.code == code:
            return kind(sentence, remedy=remedy)
    return EverupError(sentence, remedy=remedy, code=code)
