#!/usr/bin/env bash
# Trains on one device, then evaluates the saved checkpoint.
#
#   bash scripts/run_standalone_train.sh [DATASET_PATH] [CONFIG_PATH] [RESUME_CKPT] [--any.key value]
#
# Without arguments: ResNet-20 with THOR on the bundled Fashion-MNIST sample. An empty argument ("")
# stands for its default; --method NAME chooses one of the recipe's methods. Results go to a fresh
# folder below ./runs unless --output_dir says where; a resumed run continues in its own folder.
set -u
# shellcheck source=scripts/common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

usage() {
  say "${1:-}usage: bash ${0##*/} [DATASET_PATH] [CONFIG_PATH] [RESUME_CKPT] [--any.key value ...]"
}

read_positional "$@"
if [ "${overrides[0]:-}" = "--help" ]; then
  usage
  exit 0
fi
if [ "${#positional[@]}" -gt 3 ]; then
  usage "error: too many arguments: $(quoted "${positional[3]}"); "
  exit 2
fi
plan_training "${positional[0]:-}" "${positional[1]:-}" "${positional[2]:-}"

choose_python || exit
run_python "$REPO_ROOT/train.py" "${train_arguments[@]}" || exit
[ "${#eval_arguments[@]}" -eq 0 ] || run_python "$REPO_ROOT/eval.py" "${eval_arguments[@]}"
