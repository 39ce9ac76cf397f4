"""What this server can know at one moment, gathered into one frozen `Observation`."""
