"""The command line: a client of the agent's API, one file per verb."""
