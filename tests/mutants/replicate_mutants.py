"""Mistakes in the way from a closed batch to an equal tree on another server."""

from mutating import Mutant

REPLICATE: tuple[Mutant, ...] = ()
