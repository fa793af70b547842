#!/usr/bin/env bash
# --wait-verified: a machine from the mount does not start before all of its RAM is known
# to be good; without it each page is checked when it is asked for.
. "$(dirname "$0")/lib.sh"
requires_kvm
requires_fuse

demo_snapshot base
for name in good bad; do cp -r "$STORE/snapshots/base" "$STORE/snapshots/$name"; done
# Of zeros that no guest asks for.
chmod u+w "$STORE/snapshots/bad/memory.bin"
printf x | dd of="$STORE/snapshots/bad/memory.bin" bs=1 seek=12000000 conv=notrunc status=none
chmod 400 "$STORE/snapshots/bad/memory.bin"

mnt=$WORK/mnt
mkdir "$mnt"
test_mounts+=("$mnt")
"$BIN/snapfs" -o noverify "$mnt"
rung() { python3 -c 'import os, sys; print(os.getxattr(sys.argv[1], "user.snapfs.rung").decode())' "$mnt/$1/memory.bin"; }
[ "$(rung base)" = stamped ] || [ "$(rung base)" = sealed ] || fail "base is $(rung base)"
[ "$(rung good)" = unverified ] || fail "good is $(rung good)"

expect 1 "$BIN/vmm" --restore-snapshot "$mnt/bad" --check --wait-verified
says "memory.bin"
until_true 10 test "$(rung bad)" = damaged || fail "bad is $(rung bad)"
for name in good base; do
	start_vmm $name --restore-snapshot "$mnt/$name" --wait-verified
	ticks_on $name
	quit_vmm $name
done
until_true 10 test "$(rung good)" = stamped || fail "good is $(rung good)"
