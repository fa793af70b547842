#!/usr/bin/env bash
# Whichever way a file of the mount is read, bytes and positions are the bare file's: where
# the kernel reads it, where the daemon does, and where it checks each block.
# SEED=N repeats a run.
. "$(dirname "$0")/lib.sh"
requires_fuse

seed=${SEED:-$(od -An -tu4 -N4 /dev/urandom | tr -d ' ')}
seed=$((seed ? seed : 1))
echo "seed $seed"
mnt=$WORK/mnt
snap=$STORE/snapshots/base
"$TOOLS/mksnap" "$STORE" base 8 "$seed" '' 2 >/dev/null

# all RUNG: the large files on this rung, and the small ones, which have none.
all() {
	local file rung
	for file in memory.bin disks/disk0.0 disks/disk0.1 state.bin manifest.bin; do
		rung=$1
		case $file in state.bin | manifest.bin) rung=- ;; esac
		"$TOOLS/readways" "$rung" "$mnt/base/$file" "$snap/$file" "$seed" >"$WORK/said" ||
			fail "$file, $2 (SEED=$seed)"
		sed "s|^|$file, $2: |" "$WORK/said"
	done
}
# reads_by WORD: true where the mount says so.
reads_by() { "$BIN/snapctl" status | grep -q "^ *reads *$1"; }

mount_snapfs "$STORE" "$mnt" -o noverify
if reads_by passthrough; then
	all stamped "read by the kernel"
else
	echo "not tried: passthrough: $("$BIN/snapctl" status | grep reads)"
fi
all unverified "checked, with passthrough"
umount "$mnt"

# What was unverified was verified by its opens.
"$BIN/snapctl" verify base >/dev/null
mount_snapfs "$STORE" "$mnt" -o nopassthrough,noverify
reads_by 'daemon: nopassthrough' || fail "$("$BIN/snapctl" status)"
all stamped "read by the daemon"
all unverified "checked"
