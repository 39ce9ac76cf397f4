"""`python -m everup.keeper.witness`: a keeper without data and without an address; one vote.

What enters: settings and durable votes. What leaves: answers on UDP 7572. Started by
everup-witness.service.
"""

import sys

from everup.keeper.scheduling import raise_priority


def main() -> int:
    scheduling = raise_priority()
    from everup.keeper.public import NoPublicAddress
    from everup.keeper.start import serve
    from everup.places import Places

    return serve(Places.real(), lambda settings: NoPublicAddress(), scheduling)


if __name__ == "__main__":
    sys.exit(main())
