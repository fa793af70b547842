#!/usr/bin/env bash
# A save of a running guest: no tick is lost or doubled, the snapshot is the RAM
# file itself, and what the guest does afterwards changes no byte of it.
. "$(dirname "$0")/lib.sh"
requires_kvm

start_vmm a --demo-guest --memory 16M
wait_line a '^tick 5 '
ram=$(stat -L -c %i "$(ram_fd a)")
saved=$(ctl a "save-snapshot base")
snap=$STORE/snapshots/base

[ "$(field ok <<<"$saved")" = true ] || fail "$saved"
[ "$(field path <<<"$saved")" = "$snap" ] || fail "its path: $saved"
[ "$(field id <<<"$saved")" = "$(of_list base id)" ] || fail "its id: $saved"
[ "$(field pause_us <<<"$saved")" -lt 2000000 ] || fail "its pause: $saved"
[ "$(stat -c %i "$snap/memory.bin")" = "$ram" ] || fail "memory.bin is not the RAM file"
[ "$(stat -c '%s %a %h' "$snap/memory.bin")" = "16777216 400 1" ] || fail "memory.bin looks odd"
[ "$(stat -c %a "$snap/manifest.bin" "$snap/state.bin" "$snap" | tr '\n' ' ')" = "400 400 700 " ] ||
	fail "modes: $(stat -c '%n %a' "$snap"/*)"
grep -q ' rw-s .*memory.bin' "/proc/${vmm_pid[a]}/maps" && fail "it is still mapped for writing"

sums "$snap" >"$WORK/before"
ticks_on a 40
sums "$snap" | cmp - "$WORK/before" || fail "the snapshot changes while the guest goes on"
unbroken a
nothing_left "$STORE"
quit_vmm a
sums "$snap" | cmp - "$WORK/before" || fail "the snapshot changed when vmm ended"
expect 0 "$BIN/snapctl" verify base
[ -z "$(ls -A "$STORE/ram")" ] || fail "a RAM file is left"

# The manifest's digests are those of others.
if command -v fsverity >/dev/null; then
	for part in memory state; do
		"$BIN/snapctl" show --json base | json "'sha256:' + d['${part}_digest']" >"$WORK/ours"
		fsverity digest --compact "$snap/$part.bin" | sed 's/^/sha256:/' | cmp - "$WORK/ours" ||
			fail "fsverity has another digest of $part.bin"
	done
fi
