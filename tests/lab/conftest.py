"""The one group that the tests of the promises share.

It is built at the first use (about a minute) and brought back to normal before every test; when
that does not succeed it is built anew, so that one failure does not make the others fail. With
EVERUP_LAB_KEEP=1 a group that stands already is used, and left standing at the end.
"""

from collections.abc import Iterator

import pytest
from tests.lab.ground import KEEP, Ground

from everup.errors import EverupError


@pytest.fixture(scope="session")
def _built() -> Iterator[Ground]:
    ground = Ground()
    if not (KEEP and ground.lab.running):
        ground.build()
    yield ground
    if not KEEP:
        ground.down()


@pytest.fixture
def ground(_built: Ground) -> Ground:
    """The group in its normal state."""
    try:
        _built.normal()
    except (AssertionError, EverupError, OSError):
        if KEEP:
            raise
        _built.build()
    return _built
