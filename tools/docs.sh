#!/usr/bin/env bash
# Builds the site of the documentation; --help says more.
set -euo pipefail

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

usage() {
    cat <<'EOF'
Usage: bash tools/docs.sh [MKDOCS ARGUMENT...]

Sets up the environment (see tools/setup.sh --help), then builds the site from docs/ into the folder
site, in about 10 seconds. Open site/index.html in a browser: it needs no server and no network. A
link that leads nowhere, a page that the navigation in mkdocs.yml lacks, and a command or an
environment variable without a description stop the build.

Other arguments go to mkdocs build: bash tools/docs.sh --site-dir elsewhere
EOF
}

case ${1-} in
    -h | --help) usage; exit ;;
esac

python=$(bash "$ROOT/tools/setup.sh" --print-python)
unset PYTHONPATH  # it could put another mmvssd before this one
export NO_MKDOCS_2_WARNING=1
"$python" -m mkdocs build --strict --config-file "$ROOT/mkdocs.yml" "$@"
