#!/usr/bin/env bash
# Train a recipe in several processes, on GPUs or, where there are none, on the CPU:
#
#   dist_train.sh CONFIG PROCESSES [options of train.py]
#
# PROCESSES are those of this node. For several nodes run it on each, with NNODES, NODE_RANK,
# MASTER_ADDR and PORT set alike but for NODE_RANK; all of them see the work dir under one path.
# With MAX_RESTARTS=N all processes are started again, up to N times, after one of them was killed or
# failed, and go on from the newest checkpoint of the work dir.
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
