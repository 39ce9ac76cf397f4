"""What to do next: pure functions of what is remembered and what is observed. Start at `decide`."""
