#!/usr/bin/env bash
# The GPU's tests of the kernels, the ops' speed and the backbones' speed; --help says more.
set -euo pipefail

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
# seconds; with what stops a step that hangs, below 8 minutes
COMPILE=100 TESTS=150 OPS=90 BACKBONES=70 IMPORT=30 KILL=5
MODELS=(resnet-50 resnet-50+bfloat16 vssd-tiny vssd-tiny+bfloat16 vmamba-tiny-s2l5
        vmamba-tiny-s2l5+bfloat16)
SETTINGS=(infer:128x224 train:64x224)

usage() {
    cat <<USAGE
Usage: bash tools/benchmarks/gpu_check.sh [FOLDER]

Check the kernels on the GPU of this machine, in less than 8 minutes. A checkout, PyTorch and Triton
are enough. Each step stops when its time is up, and the next one runs all the same:

  compile    compile the kernels that ops and backbones run, on all cores (at most $COMPILE s)
  tests      test_triton_*.py and test_cuda_graph.py of tests/kernels (at most $TESTS s); without
             pytest or NumPy it runs python -m mmvssd_kernels.benchmark --check instead
  ops        op_speed.py --quick (at most $OPS s): op_speed.md, op_speed.json
  backbones  backbone_speed.py (at most $BACKBONES s), if mmvssd and MMPreTrain can be imported:
             backbone_speed.csv, backbone_speed.png

Tables and logs go to FOLDER, by default docs/gpu here. Another run writes them anew; a table that it
does not reach stays as it was. The environment variable PYTHON names another Python than the active
one. Exit status: 0, all is well; 1, a step failed or was stopped; 2, nothing was checked, for example
because PyTorch sees no GPU.
USAGE
}

case ${1:-} in
    -h | --help) usage; exit ;;
    -*) echo "unknown option $1" >&2; usage >&2; exit 2 ;;
esac
folder=${1:-$ROOT/docs/gpu}

stop() {
    echo "gpu_check: $*; nothing was checked." >&2
    exit 2
}

find_python() {  # the one that is asked for, or the first that has PyTorch
    local candidate
    if [[ ${PYTHON:-} ]]; then
        realpath -sm -- "$(command -v -- "$PYTHON" || echo "$PYTHON")"
        return
    fi
    for candidate in python python3 "$ROOT/.venv/bin/python"; do
        if "$candidate" -c 'import torch' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

has() {  # has <package>: whether it is installed
    "$python" -c "import importlib.util, sys; sys.exit(not importlib.util.find_spec('$1'))"
}

# interpreted kernels would need no GPU; and the kernels shall be the checkout's
unset TRITON_INTERPRET MMVSSD_KERNEL
export PYTHONPATH=$ROOT/kernels:$ROOT PYTHONUNBUFFERED=1
python=$(find_python) || stop 'no Python here has PyTorch (the variable PYTHON may name one)'
gpus=$("$python" -c 'import torch; print(torch.cuda.device_count())') ||
    stop "$python has no PyTorch"
((gpus)) || stop 'PyTorch sees no GPU here'
has triton || stop "$python has no Triton"
mkdir -p -- "$folder"
folder=$(cd -- "$folder" && pwd -P)
cd -- "$ROOT"

# interrupted, pytest still says which tests have failed
limit=(timeout --signal=INT --kill-after="$KILL")
summary=() failed=0
step() {  # step <name> <seconds> <command>...: run it, log it, note how it ended
    local name=$1 seconds=$2 status=0 start=$SECONDS outcome=passed
    printf '\n==> %s\n' "$name"
    "${limit[@]}" "$seconds" "${@:3}" 2>&1 | tee -- "$folder/$name.log" || status=$?
    case $status in
        0) ;;
        124 | 137) outcome="STOPPED, its $seconds s were up" failed=1 ;;
        *) outcome="FAILED (exit status $status)" failed=1 ;;
    esac
    summary+=("$(printf '%-10s %4d s  %s' "$name" $((SECONDS - start)) "$outcome")")
}

hosts=1
"${limit[@]}" "$IMPORT" "$python" -c 'import mmvssd, mmpretrain, rich' \
    >/dev/null 2>&1 || hosts=0

compile() {  # what is timed later is compiled first, each model and the ops beside each other
    local model models=() status=0
    if ((hosts)); then
        for model in "${MODELS[@]}"; do
            "$python" tools/benchmarks/backbone_speed.py "$model" --settings "${SETTINGS[@]}" \
                --rounds 1 --device cuda &
            models+=($!)
        done
    fi
    "$python" tools/benchmarks/op_speed.py --quick --compile || status=1
    for model in "${models[@]}"; do
        wait "$model" || status=1
    done
    return $status
}
step compile "$COMPILE" bash -c "$(declare -p python hosts MODELS SETTINGS); $(declare -f compile)
compile"

if has pytest && has numpy; then  # the tests' own needs
    parallel=()
    # most of the time goes into compiling kernels, on the CPU
    if has xdist; then parallel=(--numprocesses "$(nproc)" --dist worksteal); fi
    # their own conftest.py only: that of tests/ needs MMEngine
    step tests "$TESTS" "$python" -m pytest tests/kernels/test_triton_*.py \
        tests/kernels/test_cuda_graph.py --confcutdir tests/kernels -q -p no:cacheprovider "${parallel[@]}"
else
    echo 'pytest or NumPy is not installed: comparing the kernels with the truth without them.'
    step tests "$TESTS" "$python" -m mmvssd_kernels.benchmark --check
fi

# the reference is slow: for the last 45 seconds the kernels alone
step ops "$OPS" "$python" tools/benchmarks/op_speed.py --quick --seconds "$((OPS - 45))" \
    --out "${folder#"$ROOT"/}/op_speed.md"

if ((hosts)); then
    step backbones "$BACKBONES" "$python" tools/benchmarks/backbone_speed.py "${MODELS[@]}" \
        --settings "${SETTINGS[@]}" --rounds 5 --device cuda --out "$folder"
else
    summary+=('backbones    not run: mmvssd, MMPreTrain or rich cannot be imported')
fi

printf '\n==> summary, %d s\n' "$SECONDS"
printf '%s\n' "${summary[@]}" "tables and logs: $folder"
exit "$failed"
