#!/usr/bin/env bash
# Evaluates a checkpoint on one device.
#
#   bash scripts/run_eval.sh [DATASET_PATH] [CHECKPOINT_PATH] [CONFIG_PATH] [--any.key value]
#
# DATASET_PATH "" stands for the path in the configuration (for the bundled sample: none).
# CHECKPOINT_PATH is a .ckpt file or a run folder. CONFIG_PATH may be left out: then the config.yaml
# beside the checkpoint is used.
set -u
# shellcheck source=scripts/common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

usage() {
  say "${1:-}usage: bash ${0##*/} [DATASET_PATH] [CHECKPOINT_PATH] [CONFIG_PATH] [--any.key value ...]"
}

read_positional "$@"
if [ "${overrides[0]:-}" = "--help" ]; then
  usage
  exit 0
fi
if [ "${#positional[@]}" -lt 2 ] || [ "${#positional[@]}" -gt 3 ]; then
  usage "error: DATASET_PATH and CHECKPOINT_PATH are needed, CONFIG_PATH may follow; "
  exit 2
fi
arguments=(--checkpoint_file_path "${positional[1]}")
[ -z "${positional[0]}" ] || arguments+=(--data_path "${positional[0]}")
[ -z "${positional[2]:-}" ] || arguments+=(--config_path "${positional[2]}")

choose_python || exit
run_python "$REPO_ROOT/eval.py" "${arguments[@]}" ${overrides[@]+"${overrides[@]}"}
