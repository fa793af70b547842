#!/bin/sh
# How long the pause of a first save is, by the size of RAM, all of which the guest
# has touched: a hand-over to a second VM against moved memory slots, on real KVM
# code. A benchmark of the rig: its figures are of this emulated machine, the growth
# is what they tell.
#
#     run.sh --kernel 6.12 --l2-kernel 6.12 --timeout 1800 pause.sh
#
# Each save is of a fresh guest. What is published is of no account here: once the
# pause is known the machine is ended. RAM files lie in memory, so that no disk has
# a part in it.
# shellcheck source=lib.sh source-path=SCRIPTDIR disable=SC2317 # called by check and await
. /rig/lib.sh

runs=5
sizes='512 1024 2048'
flat_percent=130 # a hand-over at the largest size, of that at the smallest
least_gain=20	 # how much longer moved slots take, at the largest

mkdir -p /store/ram
mount -t tmpfs -o size=80% ram /store/ram
results=$vms/results
: >"$results"

# end_all NAME: the machine, and its publisher, which would go on hashing.
end_all() {
	_pid=$(vm_pid "$1")
	_children=$(cat "/proc/$_pid/task/$_pid/children" 2>/dev/null)
	# shellcheck disable=SC2086 # numbers
	kill -9 "$_pid" $_children 2>/dev/null
	await 30 ended "$_pid"
	for _child in $_children; do await 30 ended "$_child"; done
	rm -rf /store/ram/s
}

# paused_for NAME: its state is taken, and the guest runs again.
paused_for() { [ -n "$(vm_number "$1" save_pause_us)" ]; }

# measure MIB WAY: one save of one guest; a line of results.
measure() {
	# shellcheck disable=SC2086 # $linux: options, not one word
	vm_start p $linux --store /store/ram/s --cmdline "$cmdline snapfs.touch" \
		--memory "$1M" --freeze "$2" || give_up "vmm starts a guest of $1 MiB"
	await "$long" vm_ticked p 3 || give_up "the guest of $1 MiB touches its RAM and counts"
	resident=$(($(vm_number p memory_resident_bytes) >> 20))
	pages=$(vm_number p pages_4k)
	vm_say p save-snapshot one >"$vms/reply" 2>&1 &
	await "$long" paused_for p || give_up "a guest of $1 MiB is saved: $(cat "$vms/reply")"
	us=$(vm_number p save_pause_us)
	way=$(vm_say p status | sed -n 's/.*"save_freeze"[: ]*"\([a-z-]*\)".*/\1/p')
	before=$(vm_last_tick p)
	await "$long" vm_ticked p $((before + 2)) || give_up "the saved guest goes on"
	end_all p
	echo "$1 $2 $us $resident $pages" | tee -a "$results"
	[ "$resident" -ge $(($1 * 75 / 100)) ] || give_up "only $resident MiB are touched"
	[ "$pages" -gt 0 ] || give_up "KVM has no page tables of the guest: pages_4k is 0"
	case $2,$way in
	handover,hand-over | slots,slot-swap) ;;
	*) give_up "RAM was frozen by $way, not by $2" ;;
	esac
}

# rank MIB WAY PERCENT: of the pauses, the one that so many are not above.
rank() {
	sed -n "s/^$1 $2 \([0-9]*\) .*/\1/p" "$results" | sort -n |
		awk -v p="$3" '{ v[NR] = $1 } END { i = int((NR * p + 99) / 100); print v[i ? i : 1] }'
}

# The emulator is slow with code that it has not run yet: these do not count.
for way in handover slots; do measure 128 "$way"; done
for _ in $(seq "$runs"); do
	for mib in $sizes; do
		for way in handover slots; do measure "$mib" "$way"; done
	done
done

echo
echo "pause of a first save in us, $runs guests each: p50 / p95"
echo "    RAM      hand-over              moved slots"
for mib in $sizes; do
	printf '%5d MiB %8d / %-8d   %8d / %-8d\n' "$mib" "$(rank "$mib" handover 50)" \
		"$(rank "$mib" handover 95)" "$(rank "$mib" slots 50)" "$(rank "$mib" slots 95)"
done
least=$(rank 512 handover 50) most=$(rank 2048 handover 50)
check "a hand-over takes as long at 2 GiB as at 512 MiB" \
	between 0 "$most" $((least * flat_percent / 100))
check "and at 2 GiB a $least_gain-th of what moved slots take at most" \
	between 0 $((most * least_gain)) "$(rank 2048 slots 50)"
finish
