#!/usr/bin/env bash
# The installation without model libraries, by other Pythons: test_pythons.sh VENV VERSION...
# Each gets an environment VENV-VERSION with what the package itself needs, which must stay small, and runs the commands
# that need no torch; a version that is not at hand is skipped, and said to be.
set -euo pipefail
cd "$(dirname "$0")/.."
MOST_MEGABYTES=150
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
        . > "$place/install.log" 2>&1 || { cat "$place/install.log" >&2; exit 1; }
    megabytes=$(du -sm "$place/lib" | cut -f1)
    echo "Python $version, $megabytes MB:"
    ((megabytes < MOST_MEGABYTES)) || { echo "expected less than $MOST_MEGABYTES MB" >&2; exit 1; }
    "$place/bin/pip" install --quiet --disable-pip-version-check --constraint constraints.txt pytest hypothesis \
        >> "$place/install.log" 2>&1 || { cat "$place/install.log" >&2; exit 1; }
    PYTHONPATH=$PWD "$place/bin/python" -m pytest -p no:cacheprovider tests/cli/test_static_commands.py tests/cli/test_light_install.py
done
