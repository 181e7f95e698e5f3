#!/usr/bin/env bash
# Trains in one process per device, then evaluates the saved checkpoint in a single process.
#
#   bash scripts/run_distribute_train.sh RANK_TABLE_FILE|DEVICE_NUM \
#       [DATASET_PATH] [CONFIG_PATH] [RESUME_CKPT] [--any.key value]
#
# DEVICE_NUM starts that many processes on this machine; a rank table (scripts/hccl_tools.py makes
# one) says which devices of which servers take part, and the same command is run on each server.
# The other arguments are those of run_standalone_train.sh. Logs go to a fresh folder below
# ./runs/logs. --dry_run only prints the command line of msrun.
#
#   SERVER_ID     which server of the rank table this is: its number or its server_id
#   MASTER_PORT   port of the scheduler [a free one; with several servers 8118]
set -u
# shellcheck source=scripts/common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

run_distributed "RANK_TABLE_FILE|DEVICE_NUM" "" "$@"
