"""The table: every change of role that is permitted. Anything that is not here is refused.

What leaves: `TRANSITIONS`, in the order in which they are looked at: the first that holds is taken.
The rows stand in `taking` and `holding`; those that keep the role in `duties` and `remarks`. The
sentence of a row is the log line, the event and the explanation. Called by `decide`.
"""

from everup.decide.holding import PROMOTE, SERVE
from everup.decide.row import Row
from everup.decide.taking import BOOT, FOLLOW, STAND

TRANSITIONS: tuple[Row, ...] = (*BOOT, *FOLLOW, *STAND, *PROMOTE, *SERVE)
