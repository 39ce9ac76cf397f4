"""Everup keeps a Linux application server ever up."""

__version__ = "0.1.0"
