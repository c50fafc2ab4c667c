#!/usr/bin/env bash
# Makes the environment that everything else here runs in; --help says how. This part finds a Python
# for it, which needs no package: the rest is in the folder setup.
set -euo pipefail

TOOLS=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)

candidates=(python3 python3.11 python3.12 python3.13 python3.10)
for prefix in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}"; do
    [[ -z $prefix ]] || candidates+=("$prefix/bin/python")
done
[[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")

seen=
for python in "${candidates[@]}"; do
    if ! version=$("$python" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
    then
        seen+="$python does not run; "
    elif [[ $version =~ ^3\.1[0-3]$ ]]; then
        exec "$python" -I "$TOOLS/setup" "$@"
    else
        seen+="$python is Python $version; "
    fi
done
cat >&2 <<EOM

Set-up stopped: Python 3.10, 3.11, 3.12 or 3.13 is needed, and ${seen%; }.
  Debian, Ubuntu: sudo apt install python3 python3-venv
  Fedora:         sudo dnf install python3
  Elsewhere:      PYTHON=/path/to/python3.11 bash tools/setup.sh
EOM
exit 1
