#!/usr/bin/env bash
# The wheel that people and the lab install, made anew only when a source is newer.
set -euo pipefail
cd "$(dirname "$0")/.."
wheel=$(ls -t dist/everup-*.whl 2>/dev/null | head -n 1 || true)
if [ -z "$wheel" ] || [ -n "$(find src pyproject.toml README.md LICENSE -newer "$wheel" -type f ! -name '*.pyc' -print -quit)" ]; then
  rm -rf dist
  .venv/bin/python -m build --wheel --outdir dist . >/dev/null
fi
ls dist/everup-*.whl
