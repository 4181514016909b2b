#!/usr/bin/env bash
# The hooks of .pre-commit-hooks.yaml, installed by pre-commit itself from the last commit here: test_pre_commit.sh VENV.
# They must pass on the checkpoint that ships with this project, stop a file that would run code, and stay small.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
place=$(realpath -m "$1-hooks")
"${PYTHON:-python3}" -m venv --clear "$place"
"$place/bin/pip" install --quiet --disable-pip-version-check pre-commit > "$place/install.log" 2>&1 ||
    { cat "$place/install.log" >&2; exit 1; }
export PRE_COMMIT_HOME=$place/home GIT_AUTHOR_NAME=t GIT_AUTHOR_EMAIL=t@t GIT_COMMITTER_NAME=t GIT_COMMITTER_EMAIL=t@t
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp fixtures/digits_clip/digits_clip.safetensors{,.manifest.json} "$work"
commit=$(git rev-parse HEAD)
cd "$work"
git init --quiet .
printf 'repos:\n  - repo: %s\n    rev: %s\n    hooks: [{id: manifest-audit}, {id: manifest-verify}]\n' \
    "$root" "$commit" > .pre-commit-config.yaml
git add --all
"$place/bin/pre-commit" run --all-files
printf 'cos\nsystem\n(Vtrue\ntR.' > hostile.pt
git add --all
if "$place/bin/pre-commit" run --all-files manifest-audit > out.txt; then
    cat out.txt
    echo "hostile.pt passed, expected that the hook stops it" >&2
    exit 1
fi
grep -q 'hostile.pt' out.txt || { cat out.txt >&2; exit 1; }
# What a hook costs everybody who uses it. Of the installation, half is numpy, which reads the values of tensors; of the
# clone, which has no history, nearly all is the checkpoint that ships with this project, twice: in git and as a file.
most_installed=150
most=195
installed=$(du -sm "$PRE_COMMIT_HOME"/repo*/py_env-* | cut -f1)
all=$(du -sm "$PRE_COMMIT_HOME" | cut -f1)
echo "The hooks take $installed MB, and $all MB with a clone of this repository."
if [ "$installed" -gt "$most_installed" ] || [ "$all" -gt "$most" ]; then
    echo "expected at most $most_installed MB, and $most MB with the clone" >&2
    exit 1
fi
