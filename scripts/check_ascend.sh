#!/usr/bin/env bash
# Checks the package on a machine with an Ascend: every graph that CI compiles in dry-run is compiled
# and run once, the inverses are compared with float64, and all of it runs on two ranks.
#
#   bash scripts/check_ascend.sh [--list] >report.md
#
# Prints a report that can be sent back; --list prints the commands instead. Exit code 0: all passed,
# 1: something failed, 2: there is no Ascend here.
set -u
# shellcheck source=scripts/common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

case "$#:${1:-}" in
  1:--list) ;;
  0:)
    # Before Python: on another machine nothing is installed just to say so.
    found=(/dev/davinci[0-9]*)
    if [ ! -e "${found[0]}" ]; then
      say "error: no Ascend device (/dev/davinci*): run this on a machine that has one, with" \
        "CANN's set_env.sh sourced"
      exit 2
    fi
    ;;
  *)
    say "error: unknown argument: $(quoted "$*"); usage: bash ${0##*/} [--list]"
    exit 2
    ;;
esac
choose_python || exit
cd -- "$REPO_ROOT" || exit
run_python -m benchmarks.ascend.check "$@"
