#!/usr/bin/env bash
# Evaluate a checkpoint in several processes, on GPUs or, where there are none, on the CPU:
#
#   dist_test.sh CONFIG CHECKPOINT PROCESSES [options of test.py]
#
# For several nodes see dist_train.sh.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ $# -lt 3 ]; then
  echo "usage: $(basename "$0") CONFIG CHECKPOINT PROCESSES [options of test.py]" >&2
  exit 2
fi
config=$1 checkpoint=$2 processes=$3
shift 3
exec bash "$here/dist_run.sh" "$processes" "$here/test.py" "$config" "$checkpoint" "$@"
