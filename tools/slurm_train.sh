#!/usr/bin/env bash
# Train a recipe as a job of a Slurm cluster:
#
#   [NAME=VALUE...] slurm_train.sh PARTITION JOB RECIPE [options of train.py]
#
# Environment variables: GPUS, of all nodes together (default: 8); GPUS_PER_NODE (default: up to 8);
# CPUS_PER_TASK, the cores of each GPU's process (default: 5); SRUN_ARGS, more options of srun, which
# replace those set here, such as '--gres=none' for a partition without GPUs; MASTER_PORT, for two
# jobs on one node (default: 29500).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ ${1:-} == -h || ${1:-} == --help || $# -lt 3 ]]; then
  sed -n '2,/^set/{/^set/d; s/^# \{0,1\}//; p}' "${BASH_SOURCE[0]}" >&2
  [[ ${1:-} == -h || ${1:-} == --help ]] && exit 0
  exit 2
fi
partition=$1 job=$2 config=$3
shift 3
exec bash "$here/slurm_run.sh" "$partition" "$job" "$here/train.py" "$config" "$@"
