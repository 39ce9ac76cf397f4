"""`python -m everup.capture`: the main process of everup-guard (the holder)."""

from everup.capture.holder import main

if __name__ == "__main__":
    raise SystemExit(main())
