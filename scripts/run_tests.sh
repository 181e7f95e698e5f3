#!/usr/bin/env bash
# Checks everything: ruff, mypy, pytest, in the local virtual environment with the extra "test".
#
#   bash scripts/run_tests.sh [--quick] [pytest's arguments]
#
# --quick: a choice that compiles few graphs, for an answer while one works.
set -u
# shellcheck source=scripts/common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

CHOICE=()
if [ "${1:-}" = --quick ]; then
  shift
  CHOICE=(-m "not slow and not ascend_all" tests/base tests/graph tests/launch tests/layers
    tests/linalg tests/optim tests/run/test_ckpt_format.py tests/run/test_config.py
    tests/run/test_recipe_files.py tests/run/test_yaml_text.py tests/step/test_plan.py
    tests/methods/test_added_method.py tests/methods/test_kfac_oracle.py
    --ignore=tests/optim/test_rest.py)
fi
if [ -n "${MINDSPORE_THOR_PYTHON:-}" ]; then
  PYTHON=$MINDSPORE_THOR_PYTHON
else
  ensure_venv test || exit
fi
cd -- "$REPO_ROOT" || exit
"$PYTHON" -m ruff check . </dev/null || exit
"$PYTHON" -m ruff format --check . </dev/null || exit
"$PYTHON" -m mypy </dev/null || exit
# Else every process that a test starts compiles what it imports, see install_venv.
unset PYTHONDONTWRITEBYTECODE
preload_allocator
# Most of the time is graph compilation, which uses one core: two to four files run side by side,
# the longest first (tests/conftest.py). Not more: one that runs half of the tests grows to 6 GB.
WORKERS=$(nproc 2>/dev/null || echo 2)
WORKERS=$((WORKERS < 2 ? 2 : WORKERS > 4 ? 4 : WORKERS))
run_python -m pytest -n "$WORKERS" --dist loadfile --no-loadscope-reorder "${CHOICE[@]+"${CHOICE[@]}"}" "$@"
