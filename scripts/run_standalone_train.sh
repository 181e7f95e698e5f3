#!/usr/bin/env bash
# Trains on one device, then evaluates the saved checkpoint.
#
#   bash scripts/run_standalone_train.sh [DATASET_PATH] [CONFIG_PATH] [RESUME_CKPT] [--any.key value]
#
# Without arguments: ResNet-20 with THOR on the bundled Fashion-MNIST sample. An empty argument ("")
# stands for its default. Results go to a fresh folder below ./runs unless --output_dir says where;
# a resumed run continues in its own folder.
set -u
# shellcheck source=scripts/common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

usage() {
  say "usage: bash $0 [DATASET_PATH] [CONFIG_PATH] [RESUME_CKPT] [--any.key value ...]"
}

positional=()
while [ $# -gt 0 ] && [ "${1#--}" = "$1" ]; do
  positional+=("$1")
  shift
done
if [ "${1:-}" = "--help" ]; then
  usage
  exit 0
fi
if [ "${#positional[@]}" -gt 3 ]; then
  say "error: too many arguments: ${positional[3]}"
  usage
  exit 2
fi
dataset=${positional[0]:-}
config=${positional[1]:-"$REPO_ROOT/models/resnet/resnet20_fashion_mnist_sample_thor.yaml"}
resume=${positional[2]:-}

output=""
previous=""
for argument in "$@"; do
  case "$argument" in
    --output_dir=*) output=${argument#--output_dir=} ;;
    *) [ "$previous" != "--output_dir" ] || output=$argument ;;
  esac
  previous=$argument
done

train_arguments=(--config_path "$config")
eval_arguments=()
[ -z "$dataset" ] || train_arguments+=(--data_path "$dataset")
[ -z "$dataset" ] || eval_arguments+=(--data_path "$dataset")
[ -z "$resume" ] || train_arguments+=(--resume_ckpt "$resume")
if [ -z "$output" ]; then
  if [ -z "$resume" ]; then
    output="runs/$(basename -- "$config" .yaml)-$(date +%Y%m%d-%H%M%S)"
    [ ! -e "$output" ] || output="$output-$$"
    train_arguments+=(--output_dir "$output")
  elif [ -d "$resume" ]; then
    output=$resume
  else
    output=$(dirname -- "$resume")
  fi
fi

choose_python || exit
run_python "$REPO_ROOT/train.py" "${train_arguments[@]}" "$@" || exit
# The run folder holds the resolved configuration, with every override in it.
run_python "$REPO_ROOT/eval.py" --checkpoint_file_path "$output" \
  ${eval_arguments[@]+"${eval_arguments[@]}"}
