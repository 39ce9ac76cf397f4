"""Typed settings: what they are (schema), and how they are read with every mistake named (load)."""
