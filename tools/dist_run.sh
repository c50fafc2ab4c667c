#!/usr/bin/env bash
# What dist_train.sh and dist_test.sh share: run a script under torchrun.
#
#   dist_run.sh PROCESSES SCRIPT [arguments]
#
# Environment variables: NNODES, NODE_RANK, MASTER_ADDR and PORT for several nodes; MAX_RESTARTS, how
# often all processes are started again after one of them has ended with an error (default: 0).
set -euo pipefail
processes=$1
shift
if ! [[ $processes =~ ^[1-9][0-9]*$ ]]; then
  echo "PROCESSES: got '$processes', expected a positive number" >&2
  exit 2
fi
: "${MAX_RESTARTS:=0}"
if ! [[ $MAX_RESTARTS =~ ^[0-9]+$ ]]; then
  echo "MAX_RESTARTS: got '$MAX_RESTARTS', expected a number from 0 on" >&2
  exit 2
fi
# processes that are started again tell checkpoints of this job from older ones by it
MMVSSD_JOB_START=$(date +%s)
export MMVSSD_JOB_START
# each process gets its share of the cores, where torchrun would give each a single one
: "${OMP_NUM_THREADS:=$(( ($(getconf _NPROCESSORS_ONLN) + processes - 1) / processes ))}"
export OMP_NUM_THREADS
exec python -m torch.distributed.run \
  --nnodes "${NNODES:-1}" \
  --node_rank "${NODE_RANK:-0}" \
  --master_addr "${MASTER_ADDR:-127.0.0.1}" \
  --master_port "${PORT:-29500}" \
  --nproc_per_node "$processes" \
  --max_restarts "$MAX_RESTARTS" \
  "$@" --launcher pytorch
