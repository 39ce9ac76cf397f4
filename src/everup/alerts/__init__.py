"""Events become messages to people: mail and webhook, queued until they are delivered."""
