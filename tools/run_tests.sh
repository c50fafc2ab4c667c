#!/usr/bin/env bash
# Sets up, then lints and tests. Arguments go to pytest: tools/run_tests.sh tests/compat -k scope
set -euo pipefail

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

report() {  # report <exit status>
    local outcome=passed
    (($1 == 0)) || outcome="FAILED (exit status $1)"
    printf '\nLint and tests %s after %d min %02d s\n' "$outcome" $((SECONDS / 60)) $((SECONDS % 60))
}
trap 'report $?' EXIT

printf 'Lint and tests: about 40 minutes on 2 cores without a GPU; quicker: -m "not slow".\n'
printf 'The first time, setting up the environment comes before that.\n'
python=$(bash "$ROOT/tools/setup.sh" --print-python)

cd -- "$ROOT"
unset PYTHONPATH  # it could put another mmvssd before this one
"$python" -m ruff check .
# two files at a time, each on its half of the cores; in their order, for the longest is not last
export OMP_NUM_THREADS=$((($(nproc) + 1) / 2))
"$python" -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "$@"
