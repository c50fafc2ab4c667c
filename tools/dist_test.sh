#!/usr/bin/env bash
# Evaluate a checkpoint in several processes, on GPUs or, where there are none, on the CPU:
#
#   dist_test.sh CONFIG CHECKPOINT PROCESSES [options of test.py]
#
# For several nodes run it on each, with NNODES, NODE_RANK, MASTER_ADDR and PORT set alike but for
# NODE_RANK.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ ${1:-} == -h || ${1:-} == --help || $# -lt 3 ]]; then
  sed -n '2,/^set/{/^set/d; s/^# \{0,1\}//; p}' "${BASH_SOURCE[0]}" >&2
  [[ ${1:-} == -h || ${1:-} == --help ]] && exit 0
  exit 2
fi
config=$1 checkpoint=$2 processes=$3
shift 3
exec bash "$here/dist_run.sh" "$processes" "$here/test.py" "$config" "$checkpoint" "$@"
