# shellcheck shell=sh disable=SC2034 # some variables are for those who source it
# For scripts that run inside the rig (busybox sh): checks that count
# themselves, virtual machines by name, and reading what a guest's counter
# printed. Source it: . /rig/lib.sh
#
# A stage is where kernel, store and mount are: the whole file system inside the
# rig, a folder ($SNAPFS_STAGE) where a host's own KVM is used instead.
#
# A machine NAME has its files in $vms: NAME.log (the guest's serial line),
# NAME.sock (control), NAME.err (what vmm said) and NAME.pid.

stage=${SNAPFS_STAGE:-}
vms=$stage/tmp/vm
store=$stage/store/s
mnt=$stage/mnt/snaps
mkdir -p "$vms" "$mnt"
passed=0 failed=0

# For a guest to start or to boot again: seconds are usual, but the machine that
# emulates this one may be busy. Nothing waits longer than it must.
long=200

# What every Linux guest here is started with; $linux is several words.
linux="--kernel $stage/boot/bzImage --initrd $stage/boot/initrd --store $store"
cmdline="console=ttyS0 quiet panic=-1 mitigations=off"

# --- checks ---------------------------------------------------------------

ok() {
	passed=$((passed + 1))
	echo "ok - $*"
}

not_ok() {
	failed=$((failed + 1))
	echo "not ok - $*"
}

# where_they_are: the end of what each machine's guest and its vmm said.
where_they_are() {
	for _log in "$vms"/*.log "$vms"/*.err; do
		[ -s "$_log" ] || continue
		tail -n 4 "$_log" | tr -d '\r' | sed "s|^|# ${_log##*/}: |"
	done
}

# check WHAT COMMAND...: by the command's status; what it printed, and where the
# machines stood, only if it failed.
check() {
	what=$1
	shift
	if "$@" >"$vms/check.out" 2>&1; then
		ok "$what"
	else
		not_ok "$what"
		sed 's/^/# /' "$vms/check.out"
		where_they_are
	fi
}

# finish: the closing line, and the script's status.
finish() {
	echo "$passed passed, $failed failed"
	[ "$failed" -eq 0 ]
	exit
}

# give_up WHAT: what follows would make no sense any more.
give_up() {
	not_ok "$*"
	tail -n 5 "$vms"/*.err 2>/dev/null | sed 's/^/# /'
	finish
}

same() {
	[ "$1" = "$2" ] && return
	printf '%s\nis not\n%s\n' "$1" "$2"
	return 1
}

# between LOW NUMBER HIGH
between() {
	[ "$1" -le "$2" ] && [ "$2" -le "$3" ] && return
	echo "$2 is not in $1..$3"
	return 1
}

# digests FOLDER: of all that a restore reads of a snapshot.
digests() { (cd "$1" && sha256sum manifest.bin state.bin memory.bin); }

# await SECONDS COMMAND...: until the command succeeds; fails when the time is up.
await() {
	_end=$(($(date +%s) + $1))
	shift
	until "$@"; do
		[ "$(date +%s)" -lt "$_end" ] || return 1
		sleep 0.1
	done
}

# --- virtual machines -----------------------------------------------------

# ended PID: it is gone, or waits only for its status to be taken.
ended() {
	case $(sed -n 's/^State:[[:space:]]*\(.\).*/\1/p' "/proc/$1/status" 2>/dev/null) in
	'' | Z) return 0 ;;
	esac
	return 1
}

vm_pid() { cat "$vms/$1.pid"; }

vm_listens_or_ended() { [ -S "$vms/$1.sock" ] || ended "$(vm_pid "$1")"; }

# vm_start NAME OPTION...: a vmm with these options; fails if it ends before it
# listens on its control socket.
vm_start() {
	_vm=$1
	shift
	rm -f "$vms/$_vm.log" "$vms/$_vm.sock"
	vmm "$@" --serial "file=$vms/$_vm.log" --control "$vms/$_vm.sock" \
		>"$vms/$_vm.err" 2>&1 &
	echo $! >"$vms/$_vm.pid"
	await "$long" vm_listens_or_ended "$_vm" && [ -S "$vms/$_vm.sock" ]
}

# vm_say NAME COMMAND...: prints the reply; fails unless it says "ok": true.
# Making a snapshot durable takes an emulated machine its time.
vm_say() {
	_vm=$1
	shift
	ctl -t "$long" "$vms/$_vm.sock" "$@"
}

# vm_number NAME MEMBER: a number out of the machine's status.
vm_number() {
	vm_say "$1" status | sed -n "s/.*\"$2\"[: ]*\([0-9]*\).*/\1/p"
}

# vm_wait NAME SECONDS: until it has ended; its status.
vm_wait() {
	await "$2" ended "$(vm_pid "$1")" || return 124
	wait "$(vm_pid "$1")"
}

# vm_quit NAME: as a user would end it.
vm_quit() {
	vm_say "$1" quit >/dev/null
	vm_wait "$1" "$long"
}

# --- what a guest printed -------------------------------------------------
# Whole lines only: the last one may still be coming, and the first one after a
# restore may be the rest of one that was begun before the save.

vm_ticks() { sed -n 's/^tick \([0-9]*\) [0-9a-f]\{16\}\r*$/\1/p' "$vms/$1.log" 2>/dev/null; }
vm_first_tick() { vm_ticks "$1" | head -n 1; }
vm_last_tick() { vm_ticks "$1" | tail -n 1; }
vm_boots() { grep -c '^boot ' "$vms/$1.log" 2>/dev/null; }

# vm_nonces NAME: each nonce once, in the order seen.
vm_nonces() {
	sed -n 's/^tick [0-9]* \([0-9a-f]\{16\}\)\r*$/\1/p' "$vms/$1.log" 2>/dev/null | uniq
}

# vm_ticked NAME N: it has printed tick N or a later one since its last boot.
vm_ticked() { [ "$(vm_last_tick "$1" | grep . || echo 0)" -ge "$2" ]; }

# vm_ticked_times NAME N: it has printed N ticks, whatever their numbers.
vm_ticked_times() { [ "$(vm_ticks "$1" | wc -l)" -ge "$2" ]; }

# vm_booted NAME N: its guest has started N times and ticks since the last one.
vm_booted() {
	awk -v want="$2" '/^boot / { boots++; ticks = 0 } /^tick / { ticks++ }
		END { exit !(boots >= want && ticks) }' "$vms/$1.log"
}

# vm_in_order NAME: no tick is missing or repeated, and RAM was never found wrong.
vm_in_order() {
	! grep '^corrupt' "$vms/$1.log" || return 1
	vm_ticks "$1" | awk 'NR > 1 && $1 != last + 1 && $1 != 1 { print last, "then", $1; bad = 1 }
		{ last = $1 } END { exit bad || NR == 0 }'
}
