#!/usr/bin/env bash
# Makes the environment that everything else here runs in; --help says how.
set -euo pipefail

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
REQUIREMENTS=$ROOT/requirements
VENV=$ROOT/.venv
CACHE=${XDG_CACHE_HOME:-~/.cache}/mmvssd
STAMP=mmvssd-setup.stamp  # in the environment: what it was set up for
DISK_GB=4        # environment 2.4, downloads that pip keeps 0.8, and some air
CUDA_DISK_GB=10  # with PyTorch's CUDA build: environment 5.6, downloads 3

usage() {
    cat <<'EOF'
Usage: bash tools/setup.sh [--print-python]

Installs PyTorch, mmcv with its C++ ops, MMDetection, MMSegmentation, MMPreTrain and this package.
The first time takes 8 to 12 minutes on 2 cores, most of them to compile mmcv's ops. The compiled
wheel is kept in ~/.cache/mmvssd, so that a second clone needs about 2. Later runs take a second.
It may be interrupted: the next run goes on from there.

Where to: into `.venv` in this checkout; but where a virtualenv or conda environment is active that
has PyTorch 2.1 or later on Python 3.9 to 3.12, into that one, and its PyTorch is left as it is.

Options:
  --print-python  progress goes to stderr, and the path of the environment's python to stdout:
                      python=$(bash tools/setup.sh --print-python)
  --help          this text

Environment variables:
  PYTHON     the interpreter, 3.11 or 3.12, to make `.venv` with; an active environment is then not
             used. Without it: the first that fits of python3, python3.11, python3.12.
  MAX_JOBS   processes that compile mmcv's ops. Without it: as many as cores and memory allow.

pip's own settings hold, from its configuration file or as PIP_INDEX_URL, PIP_EXTRA_INDEX_URL and
PIP_FIND_LINKS. On Linux the default index has PyTorch's CUDA build, several GB; to have the small
CPU build on a machine without a GPU, point one of them to where PyTorch publishes it. On a machine
with a GPU, mmcv's ops are compiled for it where the CUDA compiler is there too; that takes longer.
EOF
}

# ---- what the user sees

say() { printf '[%3d s] %s\n' "$SECONDS" "$*"; }

fail() {  # fail <what is wrong> [<what to do>...]
    { printf '\nSet-up stopped: %s\n' "$1"; shift; (($# == 0)) || printf '  %s\n' "$@"; } >&2
    exit 1
}

# Copies a command's output to the log and shows the last telling line of it: on a terminal as one
# line that changes, otherwise as a line for every tenth part of a compilation.
watch_output() {
    local label=$1 started=$SECONDS line='' latest='' status part files all tenth=0
    while true; do
        status=0
        IFS= read -r -t 1 part || status=$?
        line+=$part
        if ((status == 0)); then
            printf '%s\n' "$line" >>"$LOG"
            if [[ $line =~ ^[[:space:]]*\[([0-9]+)/([0-9]+)\] ]]; then  # ninja's counter
                files=${BASH_REMATCH[1]} all=${BASH_REMATCH[2]}
                latest="$((100 * files / all)) % ($files of $all files)"
                if [[ ! -t 1 ]] && ((10 * files / all > tenth)); then
                    tenth=$((10 * files / all))
                    say "$label: $latest"
                fi
            elif [[ $line =~ ^\ *((Collecting|Downloading|Installing|Building)\ .*) ]]; then
                latest=${BASH_REMATCH[1]}
            fi
            line=''
        elif ((status < 128)); then  # the output's end; above 128 is read's time limit
            break
        fi
        if [[ -t 1 ]]; then
            part="$label, $((SECONDS - started)) s  $latest"
            printf '\r\033[K[%3d s] %s' "$SECONDS" "${part:0:$((${COLUMNS:-80} - 10))}"
        fi
    done
    printf '%s' "$line" >>"$LOG"
    [[ ! -t 1 ]] || printf '\r\033[K'
}

logged() {  # logged <what it does> <command>...
    local label=$1 status=0
    shift
    [[ -t 1 ]] || say "$label"
    printf '\n$ %s\n' "$*" >>"$LOG"
    set -m  # a process group of its own, so that stop() reaches the compilers too
    { "$@" 2>&1 </dev/null | watch_output "$label"; } &
    set +m
    JOB=$!
    wait "$JOB" || status=$?
    JOB=
    if ((status != 0)); then
        { printf '\nThe last lines of %s:\n' "$LOG"; tail -n 20 -- "$LOG" | cut -c 1-300; } >&2
        fail "it did not work: $label" "The whole output is in $LOG."
    fi
    [[ ! -t 1 ]] || say "$label: done"
}

stop() {  # when interrupted
    if [[ -n ${JOB:-} ]]; then
        kill -INT -- "-$JOB" 2>/dev/null || true
        wait "$JOB" || true
    fi
    printf '\nInterrupted; run it again to go on from here.\n' >&2
    exit 130
}

# ---- asking the environment; -I so that neither PYTHONPATH nor the directory decides the answer

isolated() { "$PY" -I "$@"; }

run_pip() { logged "$1" "$PY" -I -m pip "${@:2}" --constraint "$WORK/constraints.txt"; }

pin() { sed -n "s/^$1==//p" "$WORK/constraints.txt"; }

has_pinned() {  # has_pinned <distribution>...: is it there in the version of the constraints?
    local name
    for name in "$@"; do
        isolated - "$name" "$(pin "$name")" <<'EOF' 2>/dev/null || return 1
import sys
from importlib.metadata import version
found, wanted = version(sys.argv[1]), sys.argv[2]
sys.exit(wanted not in (found, found.split('+')[0]))
EOF
    done
}

mmcv_works() { # mmcv_works [cuda]
    isolated -c "$(cat <<'EOF'
import sys
import mmcv
from mmcv.ops import get_compiling_cuda_version as built_for
wanted, with_cuda = sys.argv[1:]
sys.exit(mmcv.__version__ != wanted or (with_cuda == 'cuda' and built_for() == 'not available'))
EOF
)" "$(pin mmcv)" "${1:-cpu}" >>"$LOG" 2>&1
}

state() {  # a digest of what the set-up follows from; fails where something of it is missing
    isolated - "$ROOT" <<'EOF' 2>/dev/null
import hashlib
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

root = Path(sys.argv[1])
distributions = ('torch', 'mmcv', 'mmengine', 'mmdet', 'mmpretrain', 'mmsegmentation')
digest = hashlib.sha256(repr((sys.version, [version(name) for name in distributions])).encode())
for path in [*sorted(root.glob('requirements/*.txt')), root / 'setup.py', root / 'tools/setup.sh']:
    digest.update(path.read_bytes())
for name, folder in (('mmvssd', 'mmvssd'), ('mmvssd_kernels', 'kernels/mmvssd_kernels')):
    if Path(find_spec(name).origin).resolve().parent != (root / folder).resolve():
        sys.exit(f'{name} is imported from elsewhere')
print(digest.hexdigest())
EOF
}

is_set_up() {  # is_set_up <environment>
    local PY=$1/bin/python found
    [[ -x $PY && -f $1/$STAMP ]] && found=$(state) && [[ $found == "$(<"$1/$STAMP")" ]]
}

# ---- which environment

choose_environment() {  # sets ENVIRONMENT, ADOPTED and PY
    local prefix
    ADOPTED=false
    if [[ -z ${PYTHON:-} ]]; then
        for prefix in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}"; do
            [[ -n $prefix && ! $prefix -ef $VENV ]] || continue
            if is_set_up "$prefix" || has_fitting_torch "$prefix/bin/python"; then
                ADOPTED=true ENVIRONMENT=$prefix PY=$prefix/bin/python
                return
            fi
            say "not used: $prefix, active but without PyTorch 2.1 or later on Python 3.9 to 3.12"
        done
    fi
    ENVIRONMENT=$VENV PY=$VENV/bin/python
}

has_fitting_torch() {  # has_fitting_torch <python>
    "$1" -I - <<'EOF' 2>/dev/null
import sys
import torch
version = tuple(int(part) for part in torch.__version__.split('.')[:2])
sys.exit(not ((3, 9) <= sys.version_info[:2] <= (3, 12) and version >= (2, 1)))
EOF
}

python_version() { "$1" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

choose_interpreter() {  # sets BASE, the interpreter to make .venv with
    local candidates=(python3 python3.11 python3.12) version seen=''
    [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
    for BASE in "${candidates[@]}"; do
        if ! version=$(python_version "$BASE"); then
            seen+="$BASE does not run; "
        elif [[ $version == 3.11 || $version == 3.12 ]]; then
            return
        else
            seen+="$BASE is Python $version; "
        fi
    done
    fail "Python 3.11 or 3.12 is needed, and ${seen%; }." \
        'Debian, Ubuntu: sudo apt install python3.11 python3.11-venv python3.11-dev' \
        'Fedora:         sudo dnf install python3.11 python3.11-devel' \
        'Elsewhere:      PYTHON=/path/to/python3.11 bash tools/setup.sh'
}

venv_is_whole() {
    [[ $(python_version "$VENV/bin/python") == 3.1[12] ]] && isolated -c 'import pip' 2>/dev/null
}

make_venv() {
    local output
    say "making $VENV with Python $(python_version "$BASE")"
    # --clear: what lies there without a working Python and pip is left of an interrupted attempt
    output=$("$BASE" -I -m venv --clear "$VENV" 2>&1) || fail "could not make $VENV:" "$output"
}

drop_half_installed() {
    # pip writes RECORD last: a package without one is left of an interrupted run, and pip would
    # take it for whole
    isolated - <<'EOF'
import shutil
import sysconfig
from pathlib import Path
for info in Path(sysconfig.get_path('purelib')).glob('*.dist-info'):
    if not (info / 'RECORD').exists():
        shutil.rmtree(info)
EOF
}

# ---- what must be there before anything is begun

check_venv_module() {
    local version
    version=$(python_version "$BASE")
    "$BASE" -I -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$BASE (Python $version) lacks the venv module, which makes the environment." \
            "Debian, Ubuntu: sudo apt install python$version-venv" \
            'Fedora:         sudo dnf install python3-libs' \
            'Elsewhere:      PYTHON=/path/to/another/python3.11 bash tools/setup.sh'
}

check_pip() {  # an environment made by uv has none
    isolated - <<'EOF' 2>/dev/null ||
import sys
import pip
sys.exit(tuple(int(part) for part in pip.__version__.split('.')[:2]) < (22, 3))
EOF
        fail "the active environment $ENVIRONMENT has no pip, or one older than 22.3." \
            "Run: $PY -m ensurepip --upgrade && $PY -m pip install --upgrade pip"
}

check_disk() {  # check_disk <folder> <GB> <what for>
    local free_kb
    free_kb=$(df -Pk -- "$1" | awk 'NR == 2 {print $4}')
    ((free_kb >= $2 * 1000000)) ||
        fail "$3 needs $2 GB in $1, and $((free_kb / 1000000)) GB are free there." \
            'Free some space, or use another disk: for the checkout, or (TMPDIR) for downloads.'
}

check_cache() {
    mkdir -p -- "$CACHE/wheels" 2>/dev/null && [[ -w $CACHE/wheels ]] ||
        fail "cannot write to $CACHE, where the compiled mmcv is kept." \
            'Set XDG_CACHE_HOME to a folder that can be written to.'
}

check_compiler() {  # check_compiler <python>
    local compiler version include
    read -ra compiler <<<"${CXX:-c++}"
    version=$(python_version "$1")
    include=$("$1" -I -c 'import sysconfig; print(sysconfig.get_path("include"))')
    printf '#include <vector>\n' >"$WORK/probe.cpp"
    "${compiler[@]}" -std=c++17 -fsyntax-only "$WORK/probe.cpp" 2>/dev/null ||
        fail "no working C++ compiler (${compiler[*]}); mmcv's ops are compiled here." \
            'Debian, Ubuntu: sudo apt install g++' \
            'Fedora:         sudo dnf install gcc-c++' \
            'conda:          conda install -c conda-forge gxx'
    [[ -f $include/Python.h ]] ||
        fail "Python.h of Python $version is not in $include; mmcv's ops are compiled against it." \
            "Debian, Ubuntu: sudo apt install python$version-dev" \
            "Fedora:         sudo dnf install python$version-devel"
}

cached_wheels() { compgen -G "$CACHE/wheels/$1/mmcv-$(pin mmcv)-*.whl"; }  # cached_wheels <key>

check_compiling() {  # check_compiling <python>: a compiler, unless a compiled mmcv is there
    local tag
    tag=cp$(python_version "$1")
    has_pinned mmcv ||
        cached_wheels "${tag/./}-*-torch$(pin torch)*" >/dev/null ||
        check_compiler "$1"
}

# Stops where pip finds no packages, and learns on the way whether PyTorch will be the CUDA build.
check_index() {  # check_index <distribution>
    local requirement report=$WORK/report.json
    requirement=$1==$(pin "$1")
    say "asking the package index for $requirement"
    isolated -m pip install --dry-run --no-deps --ignore-installed --retries 1 --timeout 15 \
        --report "$report" "$requirement" >"$WORK/index.log" 2>&1 </dev/null ||
        fail "pip cannot get $requirement from its package index." \
            "$(grep ERROR "$WORK/index.log" | tail -n 1 | cut -c 1-300)" \
            'Check the network (behind a proxy: HTTPS_PROXY) and the settings of pip, in:' \
            "  $PY -m pip config list"
    isolated - "$report" <<'EOF'
import json
import sys
from pip._vendor.packaging.requirements import Requirement
with open(sys.argv[1]) as file:
    metadata = json.load(file)['install'][0]['metadata']
for text in metadata.get('requires_dist', []):
    needed = Requirement(text)
    if needed.name.startswith(('nvidia-', 'cuda-')) and (
            needed.marker is None or needed.marker.evaluate({'extra': ''})):
        sys.exit(0)
sys.exit(1)
EOF
}

# ---- what to install

# For an own .venv the constraints as they are; for an adopted environment those that fit its
# PyTorch, which stays as it is with its companions.
write_constraints() {
    cp -- "$REQUIREMENTS/constraints.txt" "$WORK/constraints.txt"
    cat -- "$REQUIREMENTS/hosts_deps.txt" "$REQUIREMENTS/optional.txt" >"$WORK/wanted.txt"
    ! $ADOPTED || isolated - "$WORK" <<'EOF'
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path


def installed(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


work = Path(sys.argv[1])
pins = dict(re.findall(r'^([\w.-]+)(==\S+)', (work / 'constraints.txt').read_text(), re.MULTILINE))
tested_torch = pins['torch']
for name in ('torch', 'torchvision', 'triton'):
    pins[name] = f'=={installed(name)}' if installed(name) else None
if sys.version_info < (3, 11):  # what most of the tested versions need
    kept = {'torch', 'torchvision', 'triton', 'setuptools', 'mmcv'}
    pins = {name: pin for name, pin in pins.items() if name in kept or name.startswith('mm')}
if tuple(int(part) for part in installed('torch').split('.')[:2]) < (2, 3):
    pins.update({'numpy': '<2', 'opencv-python-headless': '<4.12'})  # built against NumPy 1

unwanted = set()
if not installed('triton') and not installed('torch').startswith(tested_torch[2:]):
    unwanted.add('triton')  # each PyTorch works with one release of it
if find_spec('cv2') and not installed('opencv-python-headless'):
    unwanted.add('opencv-python-headless')  # another OpenCV is there, and both would own cv2

lines = [f'{name}{pin}\n' for name, pin in pins.items() if pin]
(work / 'constraints.txt').write_text(''.join(lines))
wanted = (work / 'wanted.txt').read_text().splitlines(keepends=True)
(work / 'wanted.txt').write_text(
    ''.join(line for line in wanted if re.split('[^a-z-]', line)[0] not in unwanted))
EOF
}

# Prints the name under which a compiled mmcv is kept, and where the GPU goes unused the reason.
mmcv_key() {
    isolated - <<'EOF'
import os
import re
import subprocess
import sys
import sysconfig

import torch

kind, note = 'cpu', ''
if torch.version.cuda and torch.cuda.is_available():
    from torch.utils.cpp_extension import CUDA_HOME  # grumbles where there is no GPU
    nvcc = os.path.join(CUDA_HOME or '', 'bin', 'nvcc')
    found = None
    if os.path.exists(nvcc):
        output = subprocess.run([nvcc, '--version'], capture_output=True, text=True).stdout
        found = re.search(r'release (\d+)\.', output)
    if found and found.group(1) == torch.version.cuda.split('.')[0]:
        archs = {'%d.%d' % torch.cuda.get_device_capability(i)
                 for i in range(torch.cuda.device_count())}
        arch = os.environ.get('TORCH_CUDA_ARCH_LIST') or '_'.join(sorted(archs))
        kind = f'cuda{torch.version.cuda}-sm' + re.sub(r'[^\w.+]+', '_', arch)
    else:
        note = (f"mmcv's ops will run on the CPU only. To have them on the GPU, install the CUDA "
                f'{torch.version.cuda} toolkit with nvcc (or point CUDA_HOME to it), remove '
                'mmvssd-setup.stamp from this environment, and run this again.')
python = f'cp{sys.version_info.major}{sys.version_info.minor}'
print(f'{python}-{sysconfig.get_platform()}-torch{torch.__version__}-{kind}')
print(note)
EOF
}

compile_jobs() {  # compile_jobs <GB of memory that one takes>
    local cores fit
    cores=$(getconf _NPROCESSORS_ONLN)
    fit=$(awk -v each="$1" '/MemAvailable/ {print int($2 / 1e6 / each)}' /proc/meminfo)
    echo $((fit < 1 ? 1 : fit < cores ? fit : cores))
}

install_mmcv() {
    local answer key kind=cpu wheel
    mapfile -t answer < <(mmcv_key)
    ((${#answer[@]} == 2)) || fail "PyTorch does not import in $ENVIRONMENT (the error is above)."
    key=${answer[0]}
    [[ -z ${answer[1]} ]] || say "NOTE: ${answer[1]}"
    [[ $key != *-cuda* ]] || kind=cuda
    if mmcv_works "$kind"; then
        say 'mmcv: there already'
        return
    fi
    if wheel=$(cached_wheels "$key"); then
        install_wheel "mmcv $(pin mmcv), compiled earlier on this machine" "$wheel"
        mmcv_works "$kind" && return
        say 'the mmcv compiled earlier does not load here: compiling it again'
    fi
    check_compiler "$PY"
    compile_mmcv "$kind" "$CACHE/wheels/$key"
    install_wheel "mmcv $(pin mmcv)" "$(cached_wheels "$key")"
    mmcv_works "$kind" || fail "mmcv's compiled ops do not load: the error is at the end of $LOG"
}

install_wheel() { run_pip "$1" install --no-deps --force-reinstall "$2"; }

compile_mmcv() {  # compile_mmcv <cpu or cuda> <folder>
    local jobs settings
    if [[ $1 == cuda ]]; then
        jobs=${MAX_JOBS:-$(compile_jobs 3)} settings=(FORCE_CUDA=1)
    else  # its setup.py would ask for nvcc where it sees a GPU
        jobs=${MAX_JOBS:-$(compile_jobs 1)} settings=(FORCE_CUDA=0 CUDA_VISIBLE_DEVICES=)
    fi
    # pip's own cache would hand this wheel to an environment with another PyTorch
    logged "compiling mmcv $(pin mmcv) ($1, $jobs processes)" \
        env "${settings[@]}" MMCV_WITH_OPS=1 MAX_JOBS="$jobs" "$PY" -I -m pip wheel -v --no-deps \
        --no-build-isolation --no-cache-dir --no-binary mmcv --wheel-dir "$WORK" \
        --constraint "$WORK/constraints.txt" mmcv
    mkdir -p -- "$2"
    mv -f -- "$WORK"/mmcv-*.whl "$2/"  # on one disk: it is there whole or not at all
}

install_all() {
    run_pip "PyTorch $(pin torch)" install torch torchvision
    run_pip 'build tools' install --requirement "$REQUIREMENTS/build.txt"
    run_pip 'what the hosts import, and tools for tests' install --requirement "$WORK/wanted.txt"
    run_pip "MMEngine $(pin mmengine)" install --no-deps mmengine
    install_mmcv
    run_pip 'MMDetection, MMSegmentation, MMPreTrain' \
        install --no-deps --requirement "$REQUIREMENTS/hosts.txt"
    run_pip 'this checkout' install --no-deps --no-build-isolation --editable "$ROOT"
}

# ---- the whole

wait_for_other_setups() {
    command -v flock >/dev/null || return 0
    exec 9<"$ROOT"
    flock --nonblock 9 || {
        say 'another set-up of this checkout is running: waiting for it'
        flock 9
    }
}

prepare_own_venv() {
    if venv_is_whole; then
        check_compiling "$PY"
    else
        choose_interpreter
        check_venv_module
        check_disk "$ROOT" "$DISK_GB" 'The environment'
        check_compiling "$BASE"
        make_venv
    fi
    drop_half_installed
}

check_packages() {
    if ! $ADOPTED && ! has_pinned torch; then
        if check_index torch; then
            say 'PyTorch will be the CUDA build, several GB (for a CPU build see --help)'
            check_disk "$ROOT" "$CUDA_DISK_GB" "The environment with PyTorch's CUDA build"
        fi
    elif ! has_pinned mmcv mmengine mmdet mmpretrain mmsegmentation; then
        check_index mmengine || true  # it fails by itself; what it tells is about PyTorch
    fi
}

set_up() {
    say "setting up $ENVIRONMENT"
    say 'this takes 8 to 12 minutes on 2 cores where mmcv must be compiled, otherwise 1 or 2'
    check_cache
    find "$CACHE" -maxdepth 1 -name 'tmp.*' -mtime +1 -exec rm -rf -- {} +  # of killed runs
    WORK=$(mktemp -d -- "$CACHE/tmp.XXXXXX")
    trap 'rm -rf -- "$WORK"' EXIT
    write_constraints
    check_disk "${TMPDIR:-/tmp}" 1 'Downloading and building'
    if $ADOPTED; then
        check_pip
        check_disk "$ENVIRONMENT" 1 'Installing into the active environment'
        check_compiling "$PY"
    else
        prepare_own_venv
    fi
    LOG=$ENVIRONMENT/mmvssd-setup.log
    : >"$LOG"
    rm -f -- "$ENVIRONMENT/$STAMP"
    check_packages
    install_all
    isolated -c 'import cv2, mmvssd, mmvssd_kernels' ||
        fail 'everything is installed, but the package does not import (the error is above).'
    state >"$ENVIRONMENT/$STAMP"
    say "ready: $PY"
}

main() {
    local print_python=false
    case ${1-} in
        '') ;;
        --print-python) print_python=true ;;
        -h | --help) usage; return ;;
        *) fail "unknown option $1; --help lists what there is." ;;
    esac
    exec 3>&1
    ! $print_python || exec 1>&2
    export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_USER=0
    trap stop INT TERM
    wait_for_other_setups
    choose_environment
    if is_set_up "$ENVIRONMENT"; then
        say "already set up: $ENVIRONMENT"
    else
        set_up
    fi
    ! $print_python || printf '%s\n' "$PY" >&3
}

main "$@"
