#!/usr/bin/env bash
# What slurm_train.sh and slurm_test.sh share: run a script as a Slurm job, one process for each GPU.
#
#   slurm_run.sh PARTITION JOB SCRIPT [arguments]
set -euo pipefail
partition=$1 job=$2
shift 2
: "${GPUS:=8}" "${CPUS_PER_TASK:=5}"
for name in GPUS GPUS_PER_NODE CPUS_PER_TASK; do
  if ! [[ ${!name:-1} =~ ^[1-9][0-9]*$ ]]; then
    echo "$name: got '${!name}', expected a positive number" >&2
    exit 2
  fi
done
: "${GPUS_PER_NODE:=$((GPUS < 8 ? GPUS : 8))}"
if ! command -v srun >/dev/null; then
  echo 'srun: not found; without Slurm there are dist_train.sh and dist_test.sh' >&2
  exit 2
fi
# SRUN_ARGS comes last, to have the last word, and is split into its words
# shellcheck disable=SC2086
exec srun \
  --partition="$partition" \
  --job-name="$job" \
  --ntasks="$GPUS" \
  --ntasks-per-node="$GPUS_PER_NODE" \
  --gres=gpu:"$GPUS_PER_NODE" \
  --cpus-per-task="$CPUS_PER_TASK" \
  --kill-on-bad-exit=1 \
  ${SRUN_ARGS:-} \
  python -u "$@" --launcher slurm
