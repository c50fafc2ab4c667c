#!/usr/bin/env bash
# Train a recipe in several processes, on GPUs or, if there are none, on the CPU:
#
#   dist_train.sh RECIPE PROCESSES [options of train.py]
#
# PROCESSES is the number on this node. For several nodes run it on each. Set NNODES, MASTER_ADDR and
# PORT alike on all of them, and NODE_RANK to 0, 1 and so on. All nodes need the work dir under one path.
# With MAX_RESTARTS=N all processes start again, up to N times, if one of them was killed or failed.
# They go on from the newest checkpoint of the work dir.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ ${1:-} == -h || ${1:-} == --help || $# -lt 2 ]]; then
  sed -n '2,/^set/{/^set/d; s/^# \{0,1\}//; p}' "${BASH_SOURCE[0]}" >&2
  [[ ${1:-} == -h || ${1:-} == --help ]] && exit 0
  exit 2
fi
config=$1 processes=$2
shift 2
exec bash "$here/dist_run.sh" "$processes" "$here/train.py" "$config" "$@"
