#!/usr/bin/env bash
# The GPU's tests of the kernels, the ops' speed and the backbones' speed; --help says more.
set -euo pipefail

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
# seconds of each step, with what stops one that hangs; together below 8 minutes. What a step leaves
# of them the later ones have. Most of compile and tests is the compiler's, on all cores; of the
# others 10 to 20 are imports.
COMPILE=75 TESTS=130 KERNELS=45 OPS=45 BACKBONES=65 MODELS=60 REPLAYS=35 STARTS=15 KILL=5
OPTIONS=(--op nc_ssd selective_scan_2d selective_scan ssd cross_scan cross_merge
         --dtype bfloat16 float32)
VSSD=vssd-tiny-iccv2025 VMAMBA=vmamba-tiny-s2l5
BACKBONE_NAMES=(resnet-50+bfloat16 $VSSD+bfloat16 $VSSD+bfloat16+cudagraph $VMAMBA+bfloat16
                $VMAMBA+bfloat16+cudagraph)
SETTINGS=(infer:1x224 infer:128x224 train:64x224)

usage() {
    cat <<USAGE
Usage: bash tools/benchmarks/gpu_check.sh [FOLDER]

Check the kernels on the GPU of this machine, in less than 8 minutes on 16 cores. A checkout, PyTorch
and Triton are enough. Each step stops when its time is up, and the next one runs all the same. What
a step has measured until then is on disk:

  compile    compile the kernels that ops and models run, on all cores (at most $COMPILE s)
  tests      test_triton_*.py and test_cuda_graph.py of tests/kernels ($TESTS s); without pytest or
             NumPy it runs python -m mmvssd_kernels.benchmark --check instead
  kernels    op_speed.py --quick --kernels ($KERNELS s): op_kernels.md, op_kernels.json
  ops        op_speed.py --quick, whole calls ($OPS s): op_speed.md, op_speed.json
  backbones  backbone_speed.py, CUDA graphs too, and where steps spend their time ($BACKBONES s):
             backbone_speed.csv, backbone_speed.png, backbone_kernels.md, backbone_kernels.json
  models     resolution_scaling.py, VMamba's published procedure ($MODELS s): resolution_scaling.*
  replays    backbone_speed.py with MMVSSD_REPLAY=off ($REPLAYS s): the same in replays_off

The last three need the hosts: MMEngine, MMCV, MMPreTrain and rich. What a step leaves of its time the
later ones have. At the end summary.md names each step, how it ended, its headline, and which figures
of README.md were confirmed.

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

deadline=$STARTS summary=() failed=0
step() {  # step <name> <seconds> <command>...: run it, log it, note how it ended
    local name=$1 status=0 start=$SECONDS outcome=passed seconds
    deadline=$((deadline + $2))
    seconds=$((deadline - SECONDS - KILL))
    printf '\n==> %s, at most %d s\n' "$name" "$seconds"
    # interrupted, pytest still says which tests have failed
    timeout --signal="${signal:-INT}" --kill-after="$KILL" "$seconds" "${@:3}" 2>&1 |
        tee -- "$folder/$name.log" || status=$?
    case $status in
        0) ;;
        124 | 137) outcome="STOPPED, its $seconds s were up" failed=1 ;;
        *) outcome="FAILED (exit status $status)" failed=1 ;;
    esac
    summary+=("$name"$'\t'$((SECONDS - start))$'\t'"$outcome")
}

hosts=1
for package in mmengine mmcv mmpretrain rich; do
    has "$package" || hosts=0
done

compile() {  # what is timed later is compiled first, the models and the ops beside each other
    local model models=() status=0
    if ((hosts)); then
        # the scans of a model are compiled for how it cuts their inputs from one tensor
        for model in "$VMAMBA+bfloat16" "$VMAMBA+float16" "$VSSD+float16"; do
            "$python" tools/benchmarks/backbone_speed.py "$model" --settings train:64x224 \
                --rounds 1 --device cuda &
            models+=($!)
        done
    fi
    "$python" tools/benchmarks/op_speed.py --quick --compile "${OPTIONS[@]}" || status=1
    for model in "${models[@]}"; do
        wait "$model" || status=1
    done
    return $status
}
# what bash starts in the background ignores INT, and would hold the log open
signal=TERM step compile "$COMPILE" bash -c "$(declare -p python hosts VSSD VMAMBA OPTIONS)
$(declare -f compile)
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

tables=${folder#"$ROOT"/}
# the tests have compared with the truth, which takes longer than a row
step kernels "$KERNELS" "$python" tools/benchmarks/op_speed.py --quick --kernels --no-calls --no-check \
    "${OPTIONS[@]}" --out "$tables/op_kernels.md"
# the reference is slow: after a third of the time the kernels alone
step ops "$OPS" "$python" tools/benchmarks/op_speed.py --quick --no-check --no-compile \
    "${OPTIONS[@]}" --seconds "$((OPS / 3))" --out "$tables/op_speed.md"

if ((hosts)); then
    step backbones "$BACKBONES" "$python" tools/benchmarks/backbone_speed.py "${BACKBONE_NAMES[@]}" \
        --settings "${SETTINGS[@]}" --rounds 5 --kernels --device cuda --out "$folder"
    step models "$MODELS" "$python" tools/benchmarks/resolution_scaling.py "$VSSD" "$VMAMBA" resnet-50 \
        --sizes 224 --batch 128 --warmup 10 --steps 20 --no-flops --device cuda --out "$folder"
    step replays "$REPLAYS" env MMVSSD_REPLAY=off "$python" tools/benchmarks/backbone_speed.py \
        "$VSSD+bfloat16" "$VMAMBA+bfloat16" --settings "${SETTINGS[@]}" --rounds 5 --device cuda \
        --out "$folder/replays_off"
else
    for name in backbones models replays; do
        summary+=("$name"$'\t0\tnot run: MMEngine, MMCV, MMPreTrain or rich is not installed')
    done
fi

printf '\n==> summary, %d s\n' "$SECONDS"
"$python" tools/benchmarks/gpu_summary.py "$folder" "${summary[@]}" || failed=1
echo "tables and logs: $folder"
exit "$failed"
