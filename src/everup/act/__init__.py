"""Perform the actions of a decision, one small class for each kind."""
