#!/usr/bin/env bash
# Demonstrate cesbrfs on a sample instance in a temporary directory. Run it with `make demo`.
# Every command is printed before it runs. If a step fails, the exit code is nonzero.
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH="$PWD/.venv/bin:$PATH"

# Do not use settings, caches or history of the caller.
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
# Print a command and run it.
run() {
  local quoted
  printf -v quoted '%q ' "$@"
  printf '%s$ %s%s\n' "$bold" "${quoted% }" "$plain"
  "$@"
}
fail() { echo "$1" >&2; exit 1; }

heading 'Create a sample instance: 13 dogus, thousands of files, three of at least 50 MB'
run python -m tests.sample "$work/instance" --scale full
run export CESBR_ROOT="$work/instance"
python -m tests.sample "$work/instance" --change 1 >/dev/null
repository=$(<"$CESBR_ROOT/var/lib/cesbr/registry/config/backup/local_config/path")
files="$CESBR_ROOT/var/lib/ces/redmine/volumes/files"

heading 'First backup: the configured repository does not exist yet'
[ ! -e "$repository" ] || fail "$repository already exists."
run cesbr backup 2> >(tee "$work/messages" >&2)
wait $! || true # for tee
grep -qi 'initiali' "$work/messages" || fail 'No message about the new repository.'
[ -e "$repository/config" ] || fail "No repository was created at $repository."

heading 'Second backup, of one dogu, after a day of work'
run python -m tests.sample "$work/instance" --change 2
run cesbr backup redmine
run cesbr backups
mapfile -t ids < <(cesbr --json backups |
  python -c 'import json, sys; print(*sorted(b["id"] for b in json.load(sys.stdin)), sep="\n")')
[ ${#ids[@]} = 2 ] || fail "Expected two backups, found ${#ids[@]}."

heading 'Mount the backups'
run cesbrfs "$work/mount"
run ls -l "$work/mount"
run ls -l "$work/mount/${ids[0]}"
run ls -l "$work/mount/latest/redmine"
run ls -l "$work/mount/latest/redmine/volumes/files"

heading 'Copy a file from a backup, and compare it with the live file'
iso='2026/02/installation medium.iso'
run cp "$work/mount/${ids[1]}/redmine/volumes/files/$iso" "$work/copy.iso"
run cmp "$work/copy.iso" "$files/$iso"

heading 'Compare a file between two backups'
report=redmine/volumes/files/report.txt
code=0
run diff "$work/mount/${ids[0]}/$report" "$work/mount/${ids[1]}/$report" || code=$?
[ "$code" = 1 ] || fail 'Expected different contents of the report in both backups.'

heading 'Restore a file'
run cesbr restore --yes --backup latest "$report" --target "$work/restored"
run cmp "$work/restored/$report" "$files/report.txt"

heading 'A wrong encryption key has its own exit code'
echo 'not the key' >"$work/wrong"
code=0
run cesbr --password-file "$work/wrong" backups || code=$?
echo "exit code $code"
[ "$code" = 12 ] || fail 'Expected exit code 12 for a wrong key.'

heading 'Unmount'
run fusermount3 -u "$work/mount"
! mountpoint --quiet "$work/mount" || fail "$work/mount is still mounted."

printf '\nThe demo succeeded in %s seconds.\n' "$SECONDS"
if [ -t 0 ] && [ -t 1 ]; then
  heading 'Try it: "help" lists the commands, "quit" exits and removes the sample'
  run cesbr || true
fi
