"""At early boot: nothing may answer from the public address, nothing may write below a gate.

What enters: the stored list of armed trees, the group's public addresses. What leaves: closed gates
and mute addresses, until the agent of an active server opens them. Unit: everup-hide, before
local-fs.target and network-pre.target. Each step is tried whatever became of the other.
"""

import sys

from everup.capture.gate import close_at_boot
from everup.errors import EverupError
from everup.keeper.settings import read_settings
from everup.network.hide import hide
from everup.places import Places


def main() -> None:
    """Ends with 1 when something could not be closed; the boot goes on, the agent says so."""
    places = Places.real()
    places.make()
    problems = []
    try:
        # The keeper's reader, not the strict one: a settings file with a mistake in some other
        # place must not leave the address able to speak.
        hide(read_settings(places).public)
    except EverupError as error:
        problems.append(error.sentence)
    problems += close_at_boot(places)
    for problem in problems:
        print(f"everup-hide: {problem}", file=sys.stderr)
    raise SystemExit(1 if problems else 0)


if __name__ == "__main__":
    main()
