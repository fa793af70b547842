#!/bin/sh
# CPU, clocks and the re-save of a Linux guest of two vCPUs on real KVM: what a
# paused restore saves again is equal, TSCs stay together, --clock and --cpu.
#
#     run.sh state.sh TOOLS/statediff TOOLS/stateclock TOOLS/forge
# shellcheck source=lib.sh source-path=SCRIPTDIR
. /rig/lib.sh

state() { echo "$store/snapshots/$1/state.bin"; }
seconds() { /rig/stateclock "$(state "$1")" | cut -d' ' -f"$2" | cut -d. -f1; }

# shellcheck disable=SC2086 # $linux: options, not one word
vm_start a $linux --cmdline "$cmdline" --memory 128M --processors 2 --cpu x86-64-v1 ||
	give_up "vmm starts a guest of two vCPUs, --cpu x86-64-v1"
await "$long" vm_ticked a 5 || give_up "the guest starts and counts"
ok "the guest starts and counts"
check "KVM keeps to the profile" sh -c "! grep 'shows the guest more' $vms/a.err"
check "it is saved" vm_say a save-snapshot base
check "it goes on" await "$long" vm_ticked a $(($(vm_last_tick a) + 3))
check "it quits" vm_quit a
# On this emulated machine KVM takes the TSC for unstable: taken for equal, then.
check "its TSCs stand together" same "$(/rig/stateclock "$(state base)" | cut -d' ' -f3)" 0

# --- saved again before it has run ------------------------------------------------

vm_start b --restore-snapshot "$store/snapshots/base" --store "$store" --paused ||
	give_up "vmm restores it, paused"
check "it is saved again" vm_say b save-snapshot again
check "with the same state" /rig/statediff "$(state base)" "$(state again)"
# Its RAM need not be: KVM writes its wall clock there when that MSR is loaded.
check "it resumes" vm_say b resume
check "and goes on" await "$long" vm_ticked_times b 5
check "in order" vm_in_order b
check "it quits" vm_quit b

# --- clocks -------------------------------------------------------------------

cp -r "$store/snapshots/base" /store/old
chmod -R u+w /store/old
/rig/forge /store/old/manifest.bin clock=$(($(date +%s) - 3600))
for mode in freeze advance; do
	vm_start $mode --restore-snapshot /store/old --store "$store" --paused --clock $mode ||
		give_up "vmm restores it with --clock $mode"
	check "it is saved, --clock $mode" vm_say $mode save-snapshot $mode
	[ $mode = freeze ] && low=0 || low=3600
	for clock in 1 2; do
		check "clock $clock of --clock $mode has moved by $low s and what it took" between $low \
			$(($(seconds $mode $clock) - $(seconds base $clock))) $((low + 120))
	done
	check "its TSCs stand together" same "$(/rig/stateclock "$(state $mode)" | cut -d' ' -f3)" 0
	check "it resumes" vm_say $mode resume
	check "the guest goes on" await "$long" vm_ticked_times $mode 5
	check "in order" vm_in_order $mode
	check "it quits" vm_quit $mode
done

finish
