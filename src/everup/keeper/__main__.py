"""`python -m everup.keeper`: the keeper of a server that holds data.

What enters: settings and durable votes. What leaves: the lease, and the public address while it
lasts. Started by everup-keeper.service. The one place where keeper and network meet.
"""

import sys

from everup.keeper.settings import KeeperSettings
from everup.keeper.start import serve
from everup.network.public import PublicAddresses
from everup.places import Places


def _door(settings: KeeperSettings) -> PublicAddresses:
    return PublicAddresses(settings.public)


def main() -> int:
    return serve(Places.real(), _door)


if __name__ == "__main__":
    sys.exit(main())
