#!/usr/bin/env bash
# systemd has nothing to say against the unit, and its command line is one that snapfs takes.
. "$(dirname "$0")/lib.sh"

unit=$BIN/../snapfs/snapfs.service
command=$(sed -n 's/^ExecStart=//p' "$unit")
read -r program options <<<"$command"
[ "$(basename "$program")" = snapfs ] || fail "$command"
options=${options/"/var/lib/snapfs"/"$WORK/none"}
mkdir "$WORK/mnt"
# shellcheck disable=SC2086 # options, not one word
if "$BIN/snapfs" ${options/"/mnt/snaps"/"$WORK/mnt"} 2>"$WORK/err"; then fail "it mounts nothing"; fi
grep -q "there is no store at $WORK/none" "$WORK/err" || fail "$(cat "$WORK/err")"

command -v systemd-analyze >/dev/null || skip "missing package: systemd"
mkdir "$WORK/unit"
sed "s|^ExecStart=$program|ExecStart=$BIN/snapfs|" "$unit" >"$WORK/unit/snapfs.service"
systemd-analyze verify "$WORK/unit/snapfs.service" >"$WORK/out" 2>&1 || fail "$(cat "$WORK/out")"
! grep -q snapfs.service "$WORK/out" || fail "$(cat "$WORK/out")"
