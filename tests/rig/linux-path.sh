#!/bin/sh
# The main road, inside the rig, with a Linux guest: start, save while it runs,
# mount the store, restore twice from the mount, reboot before and after.
#
#     run.sh linux-path.sh
# shellcheck source=lib.sh source-path=SCRIPTDIR
. /rig/lib.sh

snap=$mnt/base

# --- a guest, saved while it runs -------------------------------------------

# shellcheck disable=SC2086 # $linux: options, not one word
vm_start a $linux --cmdline "$cmdline" --memory 128M || give_up "vmm starts"
await "$long" vm_ticked a 5 || give_up "the guest starts and counts"
ok "the guest starts and counts"

before=$(vm_last_tick a)
check "it is saved while it runs" vm_say a save-snapshot base
after=$(vm_last_tick a)
await "$long" vm_ticked a $((after + 3))
check "the saved guest goes on" vm_ticked a $((after + 3))
check "it missed no tick and its RAM is right" vm_in_order a
check "KVM built real page tables for it (pages_4k > 0)" between 1 "$(vm_number a pages_4k)" 999999999

# --- the mount ----------------------------------------------------------------

in_store=$(digests "$store/snapshots/base")
check "snapfs mounts the store" snapfs --store "$store" "$mnt"
check "the snapshot is a directory" ls -l "$snap"
check "it has a status" grep -q . "$snap/status"
check "latest is it" same "$(readlink "$mnt/latest")" base
check "the mount shows the store's bytes" same "$(digests "$snap")" "$in_store"

# --- two guests out of one snapshot -------------------------------------------

for vm in c d; do
	vm_start $vm --restore-snapshot "$snap" || give_up "vmm restores $vm from the mount"
done
for vm in c d; do
	await "$long" vm_ticked_times $vm 5
	check "$vm goes on from the frozen number" \
		between $((before + 1)) "$(vm_first_tick $vm)" $((after + 2))
	check "$vm never starts anew" same "$(vm_boots $vm)" 0
	check "$vm has the saved guest's nonce" same "$(vm_nonces $vm)" "$(vm_nonces a)"
done
first=$(vm_first_tick c)
check "both go on from the same number" between $((first - 1)) "$(vm_first_tick d)" $((first + 1))
check "a restored guest has real page tables, too" between 1 "$(vm_number c pages_4k)" 999999999
for vm in a c d; do
	await "$long" vm_ticked_times $vm 20
	check "$vm missed no tick and its RAM is right" vm_in_order $vm
	check "$vm quits when told" vm_quit $vm
done
check "the mount's bytes are still the same" same "$(digests "$snap")" "$in_store"
check "the store's bytes are still the same" same "$(digests "$store/snapshots/base")" "$in_store"

# --- reboot and power off -----------------------------------------------------

# shellcheck disable=SC2086
vm_start r $linux --cmdline "$cmdline snapfs.reboot=25" --memory 128M ||
	give_up "vmm starts a guest that will reboot"
await "$long" vm_ticked r 2
check "it is saved before its reboot" vm_say r save-snapshot before-reboot
await "$long" vm_booted r 2
check "its guest reboots" vm_booted r 2
vm_quit r
check "with a new nonce" same "$(vm_nonces r | wc -l)" 2

vm_start s --restore-snapshot "$mnt/before-reboot" || give_up "vmm restores the guest that will reboot"
await "$long" vm_booted s 1
check "the restored guest reboots" vm_booted s 1
check "from the frozen number up to the one it was told" same "$(vm_ticks s | sed -n '/^25$/p')" 25
check "first with the saved nonce" same "$(vm_nonces s | head -n 1)" "$(vm_nonces r | head -n 1)"
check "then with a new one" same "$(vm_nonces s | wc -l)" 2
for vm in r s; do
	check "$vm missed no tick and its RAM is right" vm_in_order $vm
done
vm_quit s

# shellcheck disable=SC2086
vm_start p $linux --cmdline "$cmdline snapfs.poweroff=2" --memory 128M
check "vmm ends with 0 when a guest powers off" vm_wait p "$long"

# --- the end --------------------------------------------------------------------

check "the mount ends" fusermount3 -u "$mnt"
check "nothing is left behind in the store" \
	same "$(find "$store/staging" "$store/trash" -mindepth 1 2>/dev/null)" ""
finish
