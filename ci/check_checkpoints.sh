#!/usr/bin/env bash
# What the action of action.yml runs: find checkpoints, check them, keep the report and the exit code.
#
# Asked by environment variables, so that nothing a pull request names is ever part of a command:
#   CHECK     verify or audit
#   PATHS     globs, one a line (** is any depth); empty: what a pull request changed, or all that git tracks
#   BASE      commit that a pull request is compared with; empty outside of one
#   POLICY, KEY, FAIL_ON, FAST   options of the command; KEY and FAST are for verify only
#   REPORT    where the SARIF goes
# Says sarif=PATH and checkpoints=NUMBER in $GITHUB_OUTPUT. Ends as the command does: 0, 1 or 2. Needs bash 4.4.
set -euo pipefail

SUFFIXES='(\.(safetensors|pt|pth|pt2|ckpt|npz)|model[^/]*\.bin|\.(safetensors|bin)\.index\.json)$'
SHARD='-[0-9]{5}-of-[0-9]{5}(\.(safetensors|bin))$'

say() { printf '%s=%s\n' "$1" "$2" >>"${GITHUB_OUTPUT:-/dev/null}"; }

# Whether a directory is one checkpoint: a web site's manifest.json is not one of ours.
ours() { grep -qs '"schema": *"manifest/v' "$1/manifest.json"; }

# The checkpoint that a changed file belongs to; nothing when it belongs to none.
checkpoint_of() {
  local file=$1 folder=.
  [[ $file == */* ]] && folder=${file%/*}
  case $file in
    *.manifest.json | *.manifest.sig) file=${file%.manifest.*} ;;
    manifest.json | */manifest.json | model.sig | */model.sig) file=$folder ;;
  esac
  if [[ $file =~ $SHARD && -e ${file/%"${BASH_REMATCH[0]}"/"${BASH_REMATCH[1]}.index.json"} ]]; then
    file=${file/%"${BASH_REMATCH[0]}"/"${BASH_REMATCH[1]}.index.json"}
  fi
  if [[ $folder != . ]] && ours "$folder"; then file=$folder; fi
  if [[ -d $file && $file != . ]] && ours "$file"; then
    printf '%s\0' "$file"
  elif [[ -f $file && $file =~ $SUFFIXES ]]; then
    printf '%s\0' "$file"
  fi
}

changed_files() {
  git cat-file -e "$BASE^{commit}" 2>/dev/null || git fetch --quiet --no-tags --depth=1 origin "$BASE"
  # A shallow clone has no common ancestor to compare with; then the two ends must do.
  local from
  from=$(git merge-base "$BASE" HEAD 2>/dev/null) || from=$BASE
  # With what was deleted: a checkpoint without its manifest is a change too.
  git diff --name-only --no-renames -z "$from" HEAD
}

found=()
if [[ -n ${PATHS//[[:space:]]/} ]]; then
  shopt -s globstar nullglob
  IFS=$'\n'
  # Unquoted on purpose: the shell expands the globs and nothing else, since lines alone separate.
  # shellcheck disable=SC2206
  found=($PATHS)
  unset IFS
  shopt -u globstar nullglob
  if ((${#found[@]} == 0)); then
    printf 'No file matches the paths that were given: %s\n' "$PATHS" >&2
    exit 2
  fi
else
  listing=$(mktemp)
  trap 'rm -f "$listing"' EXIT
  # Not by a pipe into the loop, which would lose a failure.
  if [[ -n ${BASE:-} ]]; then changed_files >"$listing"; else git ls-files -z >"$listing"; fi
  declare -A seen=()
  while IFS= read -r -d '' file; do
    while IFS= read -r -d '' checkpoint; do
      if [[ -z ${seen[$checkpoint]:-} ]]; then
        seen[$checkpoint]=1
        found+=("$checkpoint")
      fi
    done < <(checkpoint_of "$file")
  done <"$listing"
fi

say checkpoints "${#found[@]}"
if ((${#found[@]} == 0)); then
  echo "No checkpoint to check."
  exit 0
fi

options=(--fail-on "${FAIL_ON:-error}" --format sarif --output "$REPORT")
[[ -n ${POLICY:-} ]] && options+=(--policy "$POLICY")
case $CHECK in
  verify)
    [[ -n ${KEY:-} ]] && options+=(--key "$KEY")
    [[ ${FAST:-} == true ]] && options+=(--fast)
    ;;
  audit) ;;
  *)
    echo "The command is '$CHECK', expected verify or audit." >&2
    exit 2
    ;;
esac

printf 'manifest %s of %d checkpoints:\n' "$CHECK" "${#found[@]}"
printf '  %q\n' "${found[@]}"
rm -f -- "$REPORT"
code=0
manifest "$CHECK" "${options[@]}" -- "${found[@]}" || code=$?
if [[ -s $REPORT ]]; then say sarif "$REPORT"; fi
exit "$code"
