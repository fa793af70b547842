#!/bin/sh
# The demonstration: the main road with a word before each step and what the
# programs print. demo-rig.sh and demo-host.sh set the stage for it; its checks
# are few, linux-path.sh is the test.
# shellcheck source=lib.sh source-path=SCRIPTDIR
. "${SNAPFS_STAGE:-}/rig/lib.sh"

snap=$mnt/base

# show TEXT...: what comes next, and why it matters.
show() {
	echo
	echo "== $*"
}

# run COMMAND...: as it would be typed, with what it prints; the command's status.
run() {
	echo "\$ $*"
	"$@" >"$vms/run.out" 2>&1
	set -- $?
	sed 's/^/    /' "$vms/run.out"
	return "$1"
}

# typed COMMAND...: the command line of a program that vm_start starts.
typed() { echo "\$ $* &"; }

# serial NAME [N]: the last lines that a guest printed.
serial() {
	echo "the guest's serial line:"
	grep -E '^(boot|tick|corrupt)' "$vms/$1.log" | tail -n "${2:-3}" | sed 's/^/    /'
}

echo "Linux $(uname -r), KVM on a processor with $(grep -o -m 1 -w -e svm -e vmx /proc/cpuinfo | head -n 1)."
[ -n "$stage" ] || echo "All of it runs on an emulated machine: times here are the emulator's, not yours."

show "A Linux guest starts. It keeps a count and a nonce, new at every boot, in its RAM."
set -- --kernel "$stage/boot/bzImage" --initrd "$stage/boot/initrd" --cmdline "$cmdline" --memory 128M --store "$store"
typed vmm "$@"
vm_start a "$@" || give_up "vmm starts"
await "$long" vm_ticked a 5 || give_up "the guest starts and counts"
serial a 6

show "It is saved while it runs. RAM is not copied: the guest goes on over a private mapping."
before=$(vm_last_tick a)
echo "vmm> save-snapshot base"
vm_say a save-snapshot base | sed 's/^/    /'
after=$(vm_last_tick a)
await "$long" vm_ticked a $((after + 3))
serial a
check "the guest goes on" vm_ticked a $((after + 3))

show "The store, mounted. Each snapshot is a directory, checked when it is opened."
run snapfs --store "$store" "$mnt"
run ls -l "$mnt" "$snap/"
run cat "$snap/status"
digests=$(digests "$snap")
echo "$digests" | sed 's/^/    /'

show "Two guests restored from that one directory, at the same time. No other flag is needed."
for vm in c d; do
	typed vmm --restore-snapshot "$snap"
	vm_start $vm --restore-snapshot "$snap" || give_up "vmm restores from the mount"
done
for vm in c d; do
	await "$long" vm_ticked_times $vm 5
	grep -E '^(boot|tick) ' "$vms/$vm.log" | head -n 3 | sed 's/^/    /'
	check "it goes on from the frozen number, which is $before or the next" \
		between $((before + 1)) "$(vm_first_tick $vm)" $((after + 2))
	check "it is the saved guest: same nonce, no new boot" \
		same "$(vm_nonces $vm) $(vm_boots $vm)" "$(vm_nonces a) 0"
	check "its RAM is right" vm_in_order $vm
done

show "Three guests have run since, and not a byte of the snapshot has changed."
check "the digests are the same" same "$(digests "$snap")" "$digests"

show "A damaged snapshot never runs: here is a copy with one block overwritten."
run cp -r "$snap" "$stage/store/copy"
chmod -R u+w "$stage/store/copy"
run dd if=/dev/urandom of="$stage/store/copy/memory.bin" bs=4096 seek=5000 count=1 conv=notrunc
run vmm --restore-snapshot "$stage/store/copy" --serial none
check "it is refused" same $? 1

show "What the store holds."
run snapctl --store "$store" list

for vm in a c d; do
	vm_quit $vm || not_ok "$vm quits when told"
done
check "the mount ends" fusermount3 -u "$mnt"
echo
finish
