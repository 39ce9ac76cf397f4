"""Who may be active: heartbeats, votes and the lease (docs/protocol/keeper.md)."""
