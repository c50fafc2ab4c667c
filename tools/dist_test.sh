#!/usr/bin/env bash
# Evaluate a checkpoint in several processes, on GPUs or, if there are none, on the CPU:
#
#   dist_test.sh RECIPE CHECKPOINT PROCESSES [options of test.py]
#
# For several nodes run it on each. Set NNODES, MASTER_ADDR and PORT alike on all of them, and
# NODE_RANK to 0, 1 and so on.
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
