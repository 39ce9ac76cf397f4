"""`python -m everup.keeper`: the keeper of a server that holds data.

What enters: settings and durable votes. What leaves: the lease, and the public address while it
lasts. Started by everup-keeper.service. The one place where keeper and network meet.
"""

import sys

from everup.keeper.scheduling import raise_priority


def main() -> int:
    scheduling = raise_priority()
    from everup.keeper.start import serve
    from everup.network.public import PublicAddresses
    from everup.places import Places

    return serve(Places.real(), lambda settings: PublicAddresses(settings.public), scheduling)


if __name__ == "__main__":
    sys.exit(main())
