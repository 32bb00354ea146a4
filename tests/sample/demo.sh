#!/usr/bin/env bash
# What cesbrfs does, shown on a sample instance in a temporary folder.  `make demo` runs it.
# Every command is printed as it is run; a step that does not do what it says ends it, non-zero.
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH="$PWD/.venv/bin:$PATH"

# Nothing of the caller's settings, caches and history takes part.
for name in "${!RESTIC_@}" "${!CESBR_@}" "${!AWS_@}"; do unset "$name"; done
work=$(mktemp -d -t cesbr-demo.XXXXXX)
export HOME="$work/home" XDG_CACHE_HOME="$work/home/.cache" XDG_CONFIG_HOME="$work/home/.config"
export XDG_DATA_HOME="$work/home/.local/share" XDG_STATE_HOME="$work/home/.local/state"
export CESBR_CONFIG="$work/home/config.toml"
mkdir "$HOME" "$work/mount"
touch "$CESBR_CONFIG"

step=preparing
clean_up() {
  local code=$?
  trap - EXIT INT TERM
  if mountpoint --quiet "$work/mount"; then fusermount3 -u -z "$work/mount" || true; fi
  chmod -R u+rwX "$work" 2>/dev/null || true
  rm -rf "$work"
  [ "$code" = 0 ] || printf '\nThe demo failed at: %s\n' "$step" >&2
  exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ -t 1 ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); else bold='' plain=''; fi
heading() { step=$1; printf '\n%s== %s%s\n' "$bold" "$1" "$plain"; }
# Prints a command and runs it.
run() {
  local shown
  printf -v shown '%q ' "$@"
  printf '%s$ %s%s\n' "$bold" "${shown% }" "$plain"
  "$@"
}
fail() { echo "$1" >&2; exit 1; }

heading 'A sample instance: 13 dogus, thousands of files, three of 50 MB and more'
run python -m tests.sample "$work/instance" --scale full
run export CESBR_ROOT="$work/instance"
python -m tests.sample "$work/instance" --change 1 >/dev/null
repository=$(<"$CESBR_ROOT/var/lib/cesbr/registry/config/backup/local_config/path")
files="$CESBR_ROOT/var/lib/ces/redmine/volumes/files"

heading 'The first backup: the registry names a repository that is not there yet'
[ ! -e "$repository" ] || fail "$repository exists already"
run cesbr backup 2> >(tee "$work/said" >&2)
wait $! || true # until tee has written all of it
grep -qi 'initiali' "$work/said" || fail 'The new repository was not announced.'
[ -e "$repository/config" ] || fail "No repository was made at $repository."

heading 'A day of work, and a second backup, of one dogu'
run python -m tests.sample "$work/instance" --change 2
run cesbr backup redmine
run cesbr backups
mapfile -t ids < <(cesbr --json backups |
  python -c 'import json, sys; print(*sorted(b["id"] for b in json.load(sys.stdin)), sep="\n")')
[ ${#ids[@]} = 2 ] || fail "There should be two backups, not ${#ids[@]}."

heading 'The backups as folders'
run cesbrfs "$work/mount"
run ls -l "$work/mount"
run ls -l "$work/mount/${ids[0]}"
run ls -l "$work/mount/latest/redmine"
run ls -l "$work/mount/latest/redmine/volumes/files"

heading 'A file taken out of a backup, compared with the live one'
iso='2026/02/installation medium.iso'
run cp "$work/mount/${ids[1]}/redmine/volumes/files/$iso" "$work/copy.iso"
run cmp "$work/copy.iso" "$files/$iso"

heading 'What became of a file from one backup to the next'
report=redmine/volumes/files/report.txt
code=0
run diff "$work/mount/${ids[0]}/$report" "$work/mount/${ids[1]}/$report" || code=$?
[ "$code" = 1 ] || fail 'The two backups should hold two contents of the report.'

heading 'One file restored'
run cesbr restore --yes --backup latest "$report" --target "$work/restored"
run cmp "$work/restored/$report" "$files/report.txt"

heading 'A wrong encryption key is told from a wrong address'
echo 'not the key' >"$work/wrong"
code=0
run cesbr --password-file "$work/wrong" backups || code=$?
echo "exit code $code"
[ "$code" = 12 ] || fail 'A wrong key should end with 12.'

heading 'The end of the mount'
run fusermount3 -u "$work/mount"
! mountpoint --quiet "$work/mount" || fail "$work/mount is still mounted."

printf '\nAll of it went well, in %s seconds.\n' "$SECONDS"
if [ -t 0 ] && [ -t 1 ]; then
  heading 'Your turn: "help" lists the commands, "quit" ends it and removes the sample'
  run cesbr || true
fi
