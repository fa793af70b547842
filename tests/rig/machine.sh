#!/bin/sh
# What ACPI is for, inside the rig: reboot, power-off, power button, several
# vCPUs, RAM beyond the 32-bit hole, generation IDs; before a save and after it.
#
#     run.sh machine.sh
# shellcheck source=lib.sh source-path=SCRIPTDIR
. /rig/lib.sh

base=$store/snapshots/base

# vm_button NAME MEMBER: what its guest said when its button was pressed.
vm_button() { sed -n "s/^button .*$2=\([^ ]*\).*/\1/p" "$vms/$1.log" | tr -d '\r'; }

# pressed NAME: its guest powers off when told by its button, and vmm ends with 0.
# shellcheck disable=SC2317 # called by check
pressed() { vm_say "$1" shutdown && vm_wait "$1" "$long"; }

# --- one vCPU; it boots beside the others -----------------------------------------

# shellcheck disable=SC2086 # $linux: options, not one word
vm_start p $linux --cmdline "$cmdline snapfs.poweroff=25" --memory 128M ||
	give_up "vmm starts a guest with one vCPU"

# --- four vCPUs, RAM on both sides of the hole below 4 GiB ------------------------

# shellcheck disable=SC2086
vm_start a $linux --cmdline "$cmdline snapfs.reboot=60" --memory 3500M --no-reserve --processors 4 ||
	give_up "vmm starts a large guest with four vCPUs"
await "$long" vm_ticked p 2
check "a guest with one vCPU is saved" vm_say p save-snapshot single
await "$long" vm_ticked a 3 || give_up "the large guest starts and counts"
check "a large guest with four vCPUs is saved" vm_say a save-snapshot base
for vm in c d; do
	vm_start $vm --restore-snapshot "$base" || give_up "vmm restores $vm"
done

await "$long" vm_ticked_times d 3
check "restored, it powers off by its button, and vmm ends with 0" pressed d
check "its four vCPUs run" same "$(vm_button d cpus)" 4
check "it has all its RAM" between 3300000 "$(vm_button d memory)" 3584000
case $(vm_button d kernel) in
6.1.*) echo "# Linux 6.1 has no driver for the generation ID: nothing to see of it" ;;
*) check "it was told that it is another machine" same "$(vm_button d reseeded)" 1 ;;
esac

await "$long" vm_booted a 2
check "the saved guest reboots" vm_booted a 2
check "it powers off by its button after that" pressed a
check "its four vCPUs run after the reboot" same "$(vm_button a cpus)" 4
check "it has all its RAM after the reboot" between 3300000 "$(vm_button a memory)" 3584000
check "nobody told it that it is another machine" same "$(vm_button a reseeded)" 0

await "$long" vm_booted c 1
check "the restored guest reboots" vm_booted c 1
check "it powers off by its button after that" pressed c
check "its four vCPUs run after the reboot" same "$(vm_button c cpus)" 4

# --- the one with one vCPU, to its end ---------------------------------------------

check "vmm ends with 0 when a guest with one vCPU powers off" vm_wait p "$long"
vm_start q --restore-snapshot "$store/snapshots/single" || give_up "vmm restores q"
check "so does the vmm of the restored one" vm_wait q "$long"
check "which went on to the end" same "$(vm_last_tick q)" 25
for vm in a c d p q; do
	check "$vm missed no tick and its RAM is right" vm_in_order $vm
done
finish
