#!/usr/bin/env bash
# Evaluate a checkpoint as a job of a Slurm cluster:
#
#   [NAME=VALUE...] slurm_test.sh PARTITION JOB RECIPE CHECKPOINT [options of test.py]
#
# The environment variables are those of slurm_train.sh.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ ${1:-} == -h || ${1:-} == --help || $# -lt 4 ]]; then
  sed -n '2,/^set/{/^set/d; s/^# \{0,1\}//; p}' "${BASH_SOURCE[0]}" >&2
  [[ ${1:-} == -h || ${1:-} == --help ]] && exit 0
  exit 2
fi
partition=$1 job=$2 config=$3 checkpoint=$4
shift 4
exec bash "$here/slurm_run.sh" "$partition" "$job" "$here/test.py" "$config" "$checkpoint" "$@"
