#!/usr/bin/env bash
# vmm raises its soft limit of descriptors to the hard one, in the sandbox too, at a
# boot and at a restore; its publisher keeps the limit that it was started with.
. "$(dirname "$0")/lib.sh"
requires_kvm

ulimit -Sn 256
ulimit -Hn 4096 2>/dev/null || skip "the hard limit of descriptors is below 4096: $(ulimit -Hn)"
# limits PID: soft and hard limit.
limits() { awk '/^Max open files/ { print $4, $5 }' "/proc/$1/limits"; }
raised() {
	[ "$(limits "${vmm_pid[$1]}")" = "4096 4096" ] || fail "$1: $(limits "${vmm_pid[$1]}")"
	[ "$(limits "$(publisher_of "$1")")" = "256 4096" ] ||
		fail "the publisher of $1: $(limits "$(publisher_of "$1")")"
}

start_vmm a --demo-guest --memory 8M
wait_line a '^tick 3 '
raised a
ctl a "save-snapshot base" >"$WORK/saved"
quit_vmm a
start_vmm b --restore-snapshot "$STORE/snapshots/base"
ticks_on b
raised b
quit_vmm b
