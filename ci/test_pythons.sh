#!/usr/bin/env bash
# The commands that need no torch, by other Pythons: test_pythons.sh VENV VERSION...
# Each gets an environment VENV-VERSION without torch; a version that is not at hand is skipped, and said to be.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
shift

find_python() {
    local python
    for python in "$(command -v "python$1" || true)" "${HOME:-/}/.pyenv/versions/$1".*/bin/python; do
        if [ -x "$python" ] && "$python" --version > /dev/null 2>&1; then
            echo "$python"
            return
        fi
    done
}

for version in "$@"; do
    python=$(find_python "$version")
    if [ -z "$python" ]; then
        echo "Python $version is not at hand, so it was skipped."
        continue
    fi
    place=$venv-$version
    "$python" -m venv --clear "$place"
    "$place/bin/pip" install --quiet --disable-pip-version-check --constraint constraints.txt \
        pydantic pyyaml typer rich blake3 cryptography numpy pytest hypothesis > "$place/install.log" 2>&1 ||
        { cat "$place/install.log" >&2; exit 1; }
    echo "Python $version:"
    PYTHONPATH=$PWD "$place/bin/python" -m pytest -p no:cacheprovider tests/cli/test_static_commands.py
done
