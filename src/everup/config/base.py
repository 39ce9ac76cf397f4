"""Base of all settings.

What leaves: the struct that every part of the settings derives from. Imported by `schema` and
by the parts that have a file of their own.
"""

import msgspec


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all settings: frozen, and an unknown key is a mistake, not a comment."""
