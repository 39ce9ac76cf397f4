"""`python -m everup`: the same program as `everup`, for a checkout without its scripts."""

from everup.cli.main import main

main()
