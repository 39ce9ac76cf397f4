"""Ship, receive, apply and synchronize: the replicator process."""
