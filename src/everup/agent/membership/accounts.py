"""Names and numbers of the users and groups of this server.

What leaves: two maps, for the peers: `protect` refuses when an owner of protected files has another
number on another server, since ownership is replicated by number.
"""

import grp
import pwd

Accounts = dict[str, dict[str, int]]


def local_accounts() -> Accounts:
    """Users and groups by name."""
    return {
        "users": {entry.pw_name: entry.pw_uid for entry in pwd.getpwall()},
        "groups": {entry.gr_name: entry.gr_gid for entry in grp.getgrall()},
    }
