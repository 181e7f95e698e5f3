#!/usr/bin/env bash
# Trains in one process per GPU of this machine, then evaluates the saved checkpoint on one GPU.
#
#   bash scripts/run_distribute_train_gpu.sh DEVICE_NUM \
#       [DATASET_PATH] [CONFIG_PATH] [RESUME_CKPT] [--any.key value]
#
# CUDA_VISIBLE_DEVICES chooses the GPUs. --dry_run only prints the command line of msrun; for the
# rest see run_distribute_train.sh. This needs a MindSpore for GPU and was never run on one.
set -u
# shellcheck source=scripts/common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

run_distributed "DEVICE_NUM" GPU "$@"
