#!/bin/sh
# Virtio devices under a Linux guest that uses all of them without a pause, its
# disks with several requests at once: it is saved while it does, restored, saved
# again, five times; the last one boots again, and the first snapshot is restored once
# more. Each of them goes on with every device, and none finds anything wrong.
#
#     run.sh devices.sh
# shellcheck source=lib.sh source-path=SCRIPTDIR disable=SC2317 # called by check and await
. /rig/lib.sh

generations=5
# Beside the store, so that its disks can be kept with the snapshots.
dir=$stage/store/dev
mkdir -p "$dir"

# --- what the host gives ------------------------------------------------------

# host_net: a tap of the network that this shell is in, and who answers there.
host_net() {
	tunctl -t tap0 >/dev/null
	ip link set lo up
	ip addr add 10.0.0.1/24 dev tap0
	ip link set tap0 up
	echo-back inet 7 &
}

# host_ends NAME: of its sockets. The console's is there once vmm is.
host_listens() { echo-back listen "$dir/$1.vsock_1234" & }
host_answers() { echo-back connect "$dir/$1.console" & }

# sockets_of NAME [CID,]: where its devices end, as options.
sockets_of() { echo "--vsock ${2:-}path=$dir/$1.vsock --console path=$dir/$1.console"; }

# restore NAME SNAPSHOT: all but the sockets is where it was, its disks are the snapshot's.
restore() {
	host_listens "$1"
	# shellcheck disable=SC2046 # options, not one word
	vm_start "$1" --restore-snapshot "$store/snapshots/$2" --store "$store" $(sockets_of "$1") ||
		give_up "vmm restores $1"
	host_answers "$1"
}

# --- what the guest said ------------------------------------------------------

rounds() {
	sed -n 's/^dev \([0-9]*\) vda .* rng .* net .* vsock .* hvc [a-z]*\r*$/\1/p' "$vms/$1.log"
}
first_round() { rounds "$1" | head -n 1; }
last_round() { rounds "$1" | tail -n 1; }
did_rounds() { [ "$(rounds "$1" | wc -l)" -ge "$2" ]; }
reached() { [ "$(last_round "$1" | grep . || echo 0)" -ge "$2" ]; }
resets() { grep -c '^again vsock the connection ended' "$vms/$1.log"; }
# random NAME: what it was given since it was started. Linux reads 64 bytes ahead,
# two rounds' worth: those are in the RAM that clones have in common.
random() { sed -n 's/^dev .* rng \([0-9a-f]*\) .*/\1/p' "$vms/$1.log" | tail -n +4; }

# wrote NAME: its writers have done something since its first whole line.
wrote() {
	sed -n 's/^dev .* io \([0-9]*\) .*/\1/p' "$vms/$1.log" |
		awk 'NR == 1 { first = $1 } { last = $1 } END { exit last <= first }'
}

# found NAME: at its last start; of disks how many blocks were written.
found() { sed -n 's/^dev start \(.*\)/\1/p' "$vms/$1.log" | tail -n 1 | tr -d '\r'; }

# rounds_since_boot NAME N: it has done so many since its guest booted again.
rounds_since_boot() {
	[ "$(sed -n '/^dev start/,$p' "$vms/$1.log" | grep -c '^dev [0-9]')" -ge "$2" ]
}

# all_well NAME: no device gave anything wrong, no round is missing or repeated.
all_well() {
	! grep -E '^bad| bad|BUG|WARNING|Oops|I/O error' "$vms/$1.log" || return 1
	rounds "$1" | awk 'NR > 1 && $1 != last + 1 && $1 != 1 { print last, "then", $1; bad = 1 }
		{ last = $1 } END { exit bad || NR == 0 }'
}

# no_errors NAME: vmm met no request that it could not make sense of or carry out.
no_errors() { ! vm_say "$1" status | grep -o '"[a-z0-9]*": *{[^}]*"errors": *[1-9][^}]*}'; }

# requests NAME DEVICE: how many vmm has carried out.
requests() { vm_say "$1" status | sed -n "s/.*\"$2\": *{[^}]*\"requests\": *\([0-9]*\).*/\1/p"; }
requested() { [ "$(requests "$1" "$2" | grep . || echo 0)" -gt 0 ]; }
# took NAME BYTES: the balloon has taken just so much memory from the guest.
took() { vm_say "$1" status | grep -q "\"balloon0\": *{[^}]*\"actual_bytes\": *$2[,}]"; }

# show NAME: what became of it, when it did not do what it should.
show() {
	echo "# $1:"
	tail -n 25 "$vms/$1.log" | sed 's/^/# /'
	tail -n 5 "$vms/$1.err" | sed 's/^/# /'
}

# goes_on NAME BEFORE AFTER: a restored machine, from its first whole line on; saved
# between these two rounds.
goes_on() {
	await "$long" did_rounds "$1" 6 || show "$1"
	check "$1 goes on with the next round" between $(($2 + 1)) "$(first_round "$1")" $(($3 + 2))
	check "$1 finds every device as it was" all_well "$1"
	# An emulator that loses a timer's interrupt can have a sleeper's vCPU asleep for a while.
	wrote "$1" || echo "# $1: no writer did anything in its first rounds"
	await "$long" wrote "$1" || show "$1"
	check "its writers go on" wrote "$1"
	check "its connection to the host was reset once" same "$(resets "$1")" 1
	check "the host reaches it by a connection" echo-back ask "$dir/$1.vsock"
	check "vmm has met no errors of its devices" no_errors "$1"
}

# --- a guest with all of them ---------------------------------------------------

host_net
truncate -s 16M "$dir/rw.disk" "$dir/rw.pmem"
for disk in base ro; do
	truncate -s 2M "$dir/$disk.disk"
	devtest fill "$dir/$disk.disk"
done
host_listens g0
# 256M: Linux tells of free memory only while it has more than 64 MiB of it.
# shellcheck disable=SC2046,SC2086 # options, not one word
vm_start g0 $linux --cmdline "$cmdline snapfs.devices" --memory 256M --processors 2 \
	--disk "$dir/rw.disk" --disk "$dir/base.disk,overlay=$dir/g0.ov" --disk "$dir/ro.disk,ro" \
	--pmem "$dir/rw.pmem" --rng --balloon --net tap=tap0 $(sockets_of g0 cid=3,) ||
	give_up "vmm starts with every kind of device"
host_answers g0
await "$long" did_rounds g0 5 || show g0
check "the guest has a driver for each, and the disks are what they are" \
	same "$(found g0)" "vda=0 vdb=64 vdc=64,ro pmem=0 rng net vsock hvc"
check "and each works" all_well g0
check "several write to one disk" wrote g0
await 40 requested g0 balloon0
check "the guest tells which memory it does not use" requested g0 balloon0
check "the balloon is told how much to take" vm_say g0 balloon 32M
await "$long" took g0 $((32 << 20))
check "the guest gives it that" took g0 $((32 << 20))
check "the host reaches the guest by a connection" echo-back ask "$dir/g0.vsock"
check "vmm has met no errors of its devices" no_errors g0

# --- saved and restored, again and again ----------------------------------------

disks_of() { (cd "$store/snapshots/$1/disks" && sha256sum -- *); }

for g in $(seq "$generations"); do
	from=g$((g - 1)) to=g$g
	before=$(last_round $from)
	check "$from is saved while it runs" vm_say $from save-snapshot "$to"
	after=$(last_round $from)
	if [ "$g" = 1 ]; then
		await "$long" reached g0 $((after + 5)) || show g0
		check "the saved guest goes on" reached g0 $((after + 5))
		check "with every device" all_well g0
		check "and keeps its connection to the host" same "$(resets g0)" 0
		twin_before=$before twin_after=$after kept=$(disks_of g1)
	fi
	vm_quit $from
	restore "$to" "$to"
	goes_on "$to" "$before" "$after"
done
check "the first snapshot's disks are as they were" same "$(disks_of g1)" "$kept"

check "the balloon has what the first guest gave it" took "$to" $((32 << 20))
check "it is told to give all back" vm_say "$to" balloon 0
await "$long" took "$to" 0
check "and does" took "$to" 0
check "with every device as it was" all_well "$to"

# --- booted again ----------------------------------------------------------------

check "the guest is told to boot again" echo-back ask "$dir/$to.vsock" reboot
await "$long" rounds_since_boot "$to" 6 || show "$to"
check "it boots, and finds on its disks what it wrote" \
	same "$(found "$to" | sed 's/\(vda\|pmem\)=[1-9][0-9]*/\1=some/g')" \
	"vda=some vdb=64 vdc=64,ro pmem=some rng net vsock hvc"
check "each device works" all_well "$to"
check "the host reaches it by a connection" echo-back ask "$dir/$to.vsock"
check "vmm has met no errors of its devices" no_errors "$to"
check "it quits when told" vm_quit "$to"

# --- the first snapshot once more ----------------------------------------------

# The twin has a network of its own, in which the names are the same.
unshare -n sleep 100000 &
other=$!
apart() { [ "$(readlink "/proc/$other/ns/net")" != "$(readlink /proc/self/ns/net)" ]; }
await 10 apart
nsenter -n -t "$other" tunctl -t tap0 >/dev/null
nsenter -n -t "$other" ip addr add 10.0.0.1/24 dev tap0
nsenter -n -t "$other" ip link set tap0 up
nsenter -n -t "$other" echo-back inet 7 &
vmm() { exec nsenter -n -t "$other" vmm "$@"; }
restore twin g1
unset -f vmm
goes_on twin "$twin_before" "$twin_after"
check "they were given other random numbers" \
	same "$( (random twin && random g1) | sort | uniq -d)" ""
check "the twin quits when told" vm_quit twin

finish
