#!/bin/sh
# A guest of an ELF kernel, inside the rig: it boots, reboots, is saved and
# restored, and powers off.
#
#     run.sh elf-guest.sh VMLINUX
# shellcheck source=lib.sh source-path=SCRIPTDIR
. /rig/lib.sh

check "it is an ELF file" same "$(head -c 4 /rig/vmlinux | tail -c 3)" ELF
vm_start a --kernel /rig/vmlinux --initrd "$stage/boot/initrd" --store "$store" \
	--cmdline "$cmdline snapfs.reboot=20" --memory 192M --processors 2 ||
	give_up "vmm starts an ELF kernel"
await "$long" vm_booted a 2
check "its guest reboots" vm_booted a 2
check "it is saved" vm_say a save-snapshot elf
vm_quit a
vm_start b --restore-snapshot "$store/snapshots/elf" || give_up "vmm restores it"
await "$long" vm_booted b 1
check "the restored guest reboots" vm_booted b 1
check "its button is pressed" vm_say b shutdown
check "vmm ends with 0" vm_wait b "$long"
for vm in a b; do
	check "$vm missed no tick and its RAM is right" vm_in_order $vm
done

finish
