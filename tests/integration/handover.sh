#!/usr/bin/env bash
# The first save hands the guest over to a second VM: it goes on there without a
# tick too few or too many, so do its restored copies, again and again; by
# --freeze slots the memory slots are moved instead. Nothing of the old VM is left.
. "$(dirname "$0")/lib.sh"
requires_kvm
requires python3
export ASAN_OPTIONS="detect_leaks=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}"

# vms NAME: how many KVM virtual machines its vmm has open.
vms() { find "/proc/${vmm_pid[$1]}/fd" -lname 'anon_inode:kvm-vm' | wc -l; }
one_vm() { [ "$(vms "$1")" -eq 1 ]; }

n=0
for round in 1 2 3 4 5 6; do
	for vcpus in 1 4; do
		n=$((n + 1))
		more=()
			truncate -s 2M "$WORK/$n.pmem"
		truncate -s 1M "$WORK/$n.disk"
		[ "$round" -gt 1 ] || more=(--rng --disk "$WORK/$n.disk" --pmem "$WORK/$n.pmem"
			--balloon --timing)
		start_vmm a$n --demo-guest --memory 16M --processors $vcpus "${more[@]}"
		wait_line a$n '^tick 3 '
		ctl a$n "snap s$n" >"$WORK/saved"
		[ "$(field freeze <"$WORK/saved")" = hand-over ] || fail "$(cat "$WORK/saved")"
		[ "$round" -gt 1 ] || grep -q '"freeze": "hand-over"}' "$WORK/a$n.log" ||
			fail "--timing does not say so: $(cat "$WORK/a$n.log")"
		ticks_on a$n
		until_true 20 one_vm a$n || fail "$(vms a$n) VMs are open"
		unbroken a$n
		[ "$(of_list s$n vcpus)" = $vcpus ] || fail "list: $("$BIN/snapctl" list)"
		start_vmm b$n --restore-snapshot "$STORE/snapshots/s$n"
		ticks_on b$n
		ticks_on a$n
		unbroken a$n
		first=$(first_tick b$n)
		if [ "$first" -le 3 ] || [ "$first" -gt "$(last_tick a$n)" ]; then
			fail "the copy begins with $first"
		fi
		[ "$(nonce_of a$n)" = "$(nonce_of b$n)" ] || fail "the copy is another guest"
		quit_vmm a$n
		quit_vmm b$n
	done
done

# Saves after the first write RAM out.
start_vmm c --demo-guest --memory 16M
wait_line c '^tick 3 '
for name in first second third; do ctl c "snap $name" >"$WORK/saved"; done
[ "$(field freeze <"$WORK/saved")" = copy ] || fail "$(cat "$WORK/saved")"
ticks_on c
unbroken c
quit_vmm c

start_vmm d --demo-guest --memory 16M --processors 4 --freeze slots
wait_line d '^tick 3 '
ctl d "snap slots" >"$WORK/saved"
[ "$(field freeze <"$WORK/saved")" = slot-swap ] || fail "$(cat "$WORK/saved")"
ticks_on d
unbroken d
quit_vmm d

# Held by the user across the save: it goes on when told, not before.
start_vmm e --demo-guest --memory 16M
wait_line e '^tick 3 '
last=$(frozen_at e)
ctl e "snap held" >"$WORK/saved"
[ "$(field freeze <"$WORK/saved")" = hand-over ] || fail "$(cat "$WORK/saved")"
[ "$(last_tick e)" = "$last" ] || fail "it went on though it is paused"
ctl e resume >"$WORK/out"
ticks_on e
unbroken e
quit_vmm e
refused 2 "--freeze" "$BIN/vmm" --demo-guest --freeze never
