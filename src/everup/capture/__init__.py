"""The guard: stands between applications and their files, orders and journals every change."""
