# Shared by the integration tests: `. "$(dirname "$0")/lib.sh"`.
#
# A test gets a folder of its own in $WORK, the programs in $BIN and the test
# tools in $TOOLS. Every mount and process that it makes through these functions
# is ended when the test ends, also when it fails.
# shellcheck shell=bash
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
BIN=${BIN:-$here/../../build/bin}
TOOLS=${TOOLS:-$BIN/../tests}
WORK=$(mktemp -d "${TMPDIR:-/tmp}/snapfs-test.XXXXXX")
STORE=$WORK/store
export SNAPFS_STORE=$STORE

test_pids=()
test_mounts=()

clean_up() {
	local status=$? pid m
	trap - EXIT
	for pid in "${test_pids[@]}"; do
		kill -9 "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	done
	for m in "${test_mounts[@]}"; do
		umount -l "$m" 2>/dev/null || fusermount3 -uz "$m" 2>/dev/null || true
	done
	rm -rf "$WORK"
	exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

fail() {
	echo "FAILED: $*" >&2
	exit 1
}

skip() {
	echo "skipped: $*"
	exit 77
}

requires_kvm() {
	if [ ! -r /dev/kvm ] || [ ! -w /dev/kvm ]; then skip "/dev/kvm cannot be opened here"; fi
}

requires_fuse() {
	if [ ! -r /dev/fuse ] || [ ! -w /dev/fuse ]; then skip "/dev/fuse cannot be opened here"; fi
}

requires() {
	command -v "$1" >/dev/null || skip "$1 is not installed"
}

# expect STATUS COMMAND..: runs it, its output in $WORK/out, and checks its exit status.
expect() {
	local want=$1 got=0
	shift
	"$@" >"$WORK/out" 2>&1 </dev/null || got=$?
	[ "$got" -eq "$want" ] || {
		cat "$WORK/out" >&2
		fail "'$*' ended with $got, not $want"
	}
}

# says WORDS: the last `expect` printed them, and no more than a few lines.
says() {
	grep -qiF -- "$1" "$WORK/out" || {
		cat "$WORK/out" >&2
		fail "no word of '$1'"
	}
}

# until_true SECONDS COMMAND..: waits until the command succeeds.
until_true() {
	local tries=$(($1 * 50))
	shift
	while ! "$@" 2>/dev/null; do
		tries=$((tries - 1))
		[ "$tries" -gt 0 ] || return 1
		sleep 0.02
	done
}

# start_vmm NAME OPTION..: runs vmm in the background with a control socket at
# $WORK/NAME.sock, its serial line in $WORK/NAME.serial, its words in
# $WORK/NAME.log and its pid in the array vmm_pid.
declare -A vmm_pid
start_vmm() {
	local name=$1
	shift
	"$BIN/vmm" --serial "file=$WORK/$name.serial" --control "$WORK/$name.sock" "$@" \
		>"$WORK/$name.log" 2>&1 </dev/null &
	vmm_pid[$name]=$!
	test_pids+=("$!")
}

# ctl NAME COMMAND: one command to a running vmm; its answer on standard output.
# Fails if the answer is an error.
ctl() {
	"$TOOLS/../guest/guest-ctl" "$WORK/$1.sock" "$2"
}

# has_line NAME PATTERN: the serial line has shown a line that matches.
has_line() {
	grep -Eq -- "$2" "$WORK/$1.serial"
}

# wait_line NAME PATTERN: waits for it.
wait_line() {
	until_true 20 has_line "$1" "$2" || {
		tail -5 "$WORK/$1.serial" "$WORK/$1.log" >&2
		fail "vmm $1 never printed '$2'"
	}
}

# The number of the last whole tick of a demo guest; of its first; its nonce.
last_tick() { sed -nE 's/^tick ([0-9]+) [0-9a-f]{16}$/\1/p' "$WORK/$1.serial" | tail -1; }
first_tick() { sed -nE 's/^tick ([0-9]+) [0-9a-f]{16}$/\1/p' "$WORK/$1.serial" | head -1; }
nonce_of() { sed -nE 's/^(boot|tick [0-9]+) ([0-9a-f]{16})$/\2/p' "$WORK/$1.serial" | sort -u; }

# quit_vmm NAME: ends it in order and checks its exit status.
quit_vmm() {
	local status=0
	ctl "$1" quit >/dev/null
	wait "${vmm_pid[$1]}" || status=$?
	[ "$status" -eq 0 ] || fail "vmm $1 ended with $status"
}

# demo_snapshot NAME: boots a demo guest, saves it as NAME, ends it.
demo_snapshot() {
	start_vmm "maker-$1" --demo-guest --memory 16M
	wait_line "maker-$1" '^tick 3 '
	ctl "maker-$1" "save-snapshot $1" >"$WORK/saved"
	quit_vmm "maker-$1"
}

# mount_snapfs STORE MNT [OPTION..]: mounts, and has it unmounted at the end.
mount_snapfs() {
	local store=$1 mnt=$2
	shift 2
	mkdir -p "$mnt"
	test_mounts+=("$mnt")
	"$BIN/snapfs" --store "$store" "$@" "$mnt"
}

# flip FILE OFFSET: inverts one bit there.
flip() {
	local byte
	byte=$(od -An -tu1 -j "$2" -N 1 "$1" | tr -d ' ')
	printf '%b' "\\x$(printf %02x $((byte ^ 1)))" |
		dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
