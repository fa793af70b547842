#!/usr/bin/env bash
# Snapshots whose manifest says something else of the kept files than they are, with
# digests that are right: refused in one sentence, and nothing is started.
. "$(dirname "$0")/lib.sh"
requires_kvm
export ASAN_OPTIONS="detect_leaks=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
head -c 1M /dev/urandom >"$WORK/disk.img"
head -c 2M /dev/urandom >"$WORK/pmem.img"
start_vmm a --demo-guest --memory 4M --disk "$WORK/disk.img" --pmem "$WORK/pmem.img"
wait_line a '^tick 3 '
ctl a "snap first" >"$WORK/out"
ctl a "snap one" >"$WORK/out"
quit_vmm a

# forged WORDS FIELD=VALUE..: a copy of the snapshot with these is refused.
forged() {
	local words=$1
	shift
	rm -rf "$WORK/copy"
	cp -r "$STORE/snapshots/one" "$WORK/copy"
	chmod -R u+w "$WORK/copy"
	"$TOOLS/forge" "$WORK/copy/manifest.bin" "$@"
	for check in --check ""; do
		# shellcheck disable=SC2086 # none, or one word
		expect 1 timeout 30 "$BIN/vmm" --restore-snapshot "$WORK/copy" --serial none $check
		says "$words"
		! grep -qE 'Sanitizer|runtime error' "$WORK/out" || fail "$*: $(cat "$WORK/out")"
	done
}
forged "disk0" disk=disk0.size=1049088
forged "disk0" disk=disk0.size=0
forged "pmem0" disk=pmem0.size=4194304
forged "the snapshot does not say what disk disk0 was" disk=disk0.device=serial0
forged "the snapshot does not say what disk disk0 was" disk=disk0.device=nobody
forged "listed twice" disk=disk0.device=pmem0
forged "pmem0 is of 2 files, pmem is of one" disk=pmem0.move=disk0
forged "disk0" disk=disk0.move=pmem0
forged "pmem0 is of 2 files" disk=pmem0.device=x disk=disk0.device=pmem0 disk=x.device=disk0
forged "disk0" device=disk0.kind=virtio-pmem
forged "pmem0" device=pmem0.kind=virtio-blk
# Without any file it is a disk with a path, which is empty.
forged "disk0: the snapshot has neither its files nor a path" device=disk0.path= disk=pmem0.move=disk0 disk=pmem0.move=disk0

# Only read now, which its driver does not know: seen when the state is loaded.
rm -rf "$WORK/copy"
cp -r "$STORE/snapshots/one" "$WORK/copy"
chmod u+w "$WORK/copy/manifest.bin"
"$TOOLS/forge" "$WORK/copy/manifest.bin" device=disk0.ro=1
refused 1 "the saved state of disk0 needs features" "$BIN/vmm" --restore-snapshot "$WORK/copy" --serial none
[ -z "$(ls -A "$STORE/ram")" ] || fail "left: $(ls -la "$STORE/ram")"
nothing_left "$STORE"
