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
: "${NNODES:=1}" "${NODE_RANK:=0}" "${MASTER_ADDR:=127.0.0.1}" "${PORT:=29500}" "${MAX_RESTARTS:=0}"
require() {  # require NAME VALUE PATTERN EXPECTED
  [[ $2 =~ $3 ]] || { echo "$1: got '$2', expected $4" >&2; exit 2; }
}
require PROCESSES "$processes" '^[1-9][0-9]{0,5}$' 'a positive number'
require NNODES "$NNODES" '^[1-9][0-9]{0,5}$' 'a positive number'
require NODE_RANK "$NODE_RANK" '^(0|[1-9][0-9]{0,5})$' 'a number from 0 on'
require PORT "$PORT" '^[1-9][0-9]{0,4}$' 'a number from 1 to 65535'
((PORT < 65536)) || require PORT "$PORT" '^$' 'a number from 1 to 65535'
require MAX_RESTARTS "$MAX_RESTARTS" '^(0|[1-9][0-9]{0,5})$' 'a number from 0 on'
if ((NODE_RANK >= NNODES)); then
  echo "NODE_RANK: got $NODE_RANK, expected 0 to $((NNODES - 1)), for NNODES is $NNODES" >&2
  exit 2
fi
# processes that are started again tell checkpoints of this job from older ones by it
MMVSSD_JOB_START=$(date +%s)
export MMVSSD_JOB_START
# each process gets its share of the cores, where torchrun would give each a single one
: "${OMP_NUM_THREADS:=$(( ($(getconf _NPROCESSORS_ONLN) + processes - 1) / processes ))}"
export OMP_NUM_THREADS
exec python "$(dirname -- "${BASH_SOURCE[0]}")/torchrun.py" \
  --nnodes "$NNODES" \
  --node_rank "$NODE_RANK" \
  --master_addr "$MASTER_ADDR" \
  --master_port "$PORT" \
  --nproc_per_node "$processes" \
  --max_restarts "$MAX_RESTARTS" \
  "$@" --launcher pytorch
