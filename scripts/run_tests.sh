#!/usr/bin/env bash
# Checks everything: ruff, mypy, pytest, in the local virtual environment with the extra "test".
#
#   bash scripts/run_tests.sh [pytest's arguments]
set -u
# shellcheck source=scripts/common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

if [ -n "${MINDSPORE_THOR_PYTHON:-}" ]; then
  PYTHON=$MINDSPORE_THOR_PYTHON
else
  ensure_venv test || exit
fi
cd -- "$REPO_ROOT" || exit
"$PYTHON" -m ruff check . </dev/null || exit
"$PYTHON" -m ruff format --check . </dev/null || exit
"$PYTHON" -m mypy </dev/null || exit
# Most of the time is graph compilation, which uses one core: two files run side by side, the
# longest first (tests/conftest.py).
run_python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
