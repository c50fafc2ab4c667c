#!/usr/bin/env bash
# Sets up, then lints and tests; --help says more.
set -euo pipefail

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

usage() {
    cat <<'EOF'
Usage: bash tools/run_tests.sh [--fast] [PYTEST ARGUMENT...]

Set up the environment (see tools/setup.sh --help), then check style and types, and run all tests.

  --fast  skip the tests that are marked slow, while you write code

On 2 cores without a GPU all tests take about 23 minutes, and longer if the machine is busy. The fast
ones, the first case of each test, take 4. Other arguments go to pytest:
bash tools/run_tests.sh tests/compat -k scope
EOF
}

report() {  # report <exit status>
    local outcome=passed
    (($1 == 0)) || outcome="FAILED (exit status $1)"
    printf '\nLint and tests %s after %d min %02d s\n' "$outcome" $((SECONDS / 60)) $((SECONDS % 60))
}

lane=() minutes='about 23'
case ${1-} in
    -h | --help) usage; exit ;;
    --fast) lane=(-m 'not slow') minutes='about 4'; shift ;;
esac
trap 'report $?' EXIT

printf 'Lint and tests: %s minutes on 2 cores without a GPU.\n' "$minutes"
printf 'The first time, setting up the environment comes before that.\n'
python=$(bash "$ROOT/tools/setup.sh" --print-python)

cd -- "$ROOT"
unset PYTHONPATH  # it could put another mmvssd before this one
"$python" -m ruff check .
"$python" -m mypy
# two files at a time, each on its half of the cores; in their order, for the longest is not last
export OMP_NUM_THREADS=$((($(nproc) + 1) / 2))
"$python" -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "${lane[@]}" "$@"
