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
	trap - EXIT ERR
	set +e
	# Only what still runs: the number of one that has ended may be another's by now.
	for pid in $(jobs -rp) $(jobs -sp); do
		kill -9 "$pid" 2>/dev/null
		wait "$pid" 2>/dev/null
	done
	for m in "${test_mounts[@]}"; do
		umount -l "$m" 2>/dev/null || fusermount3 -uz "$m" 2>/dev/null || true
	done
	# Also what a test has mounted itself, the last first.
	for m in $(awk -v dir="$WORK/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | tac); do
		umount -l "$m"
	done
	if grep -qs -e 'ERROR: [A-Za-z]*Sanitizer' -e 'runtime error:' "$WORK"/*.log; then
		cat "$WORK"/*.log >&2
		status=1
	fi
	# What has just been killed may still be making a file.
	rm -rf "$WORK" 2>/dev/null || { sleep 0.2 && rm -rf "$WORK"; }
	exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM
# What ends a test without a word of its own.
set -E
trap 'echo "FAILED: line $LINENO of ${BASH_SOURCE[0]##*/}: $BASH_COMMAND" >&2' ERR

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
	# The interpreter itself: what stands for it in the path may take its time.
	if [ "$1" = python3 ]; then python=$(python3 -c 'import sys; print(sys.executable)'); fi
}
python=python3

# own_mounts: starts the test again where its mounts are seen by nobody else, and
# end with it. At its very beginning.
own_mounts() {
	[ -z "${SNAPFS_TEST_OWN_MOUNTS:-}" ] || return 0
	[ "$(id -u)" -eq 0 ] || skip "only root can mount"
	unshare --mount true 2>/dev/null || skip "no mount namespace of one's own here"
	rm -rf "$WORK"
	trap - EXIT ERR
	SNAPFS_TEST_OWN_MOUNTS=1 exec unshare --mount --propagation private bash "$0"
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

# refused STATUS WORDS COMMAND..: it ends with this status, within 30 seconds, and
# says why in one sentence of its own that has the words in it.
refused() {
	local want=$1 words=$2
	shift 2
	expect "$want" timeout 30 "$@"
	says "$words"
	[ "$(wc -l <"$WORK/out")" -eq 1 ] || {
		cat "$WORK/out" >&2
		fail "'$*' does not say it in one sentence"
	}
	grep -Eq '^(vmm|snapfs|snapctl): ' "$WORK/out" || {
		cat "$WORK/out" >&2
		fail "'$*' does not say who speaks"
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
	rm -f "$WORK/$name.serial"
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
		tail -n 5 "$WORK/$1.serial" "$WORK/$1.log" >&2
		fail "vmm $1 never printed '$2'"
	}
}

# The number of the last whole tick of a demo guest; of its first; its nonce.
last_tick() { sed -nE 's/^tick ([0-9]+) [0-9a-f]{16}$/\1/p' "$WORK/$1.serial" | tail -1; }
first_tick() { sed -nE 's/^tick ([0-9]+) [0-9a-f]{16}$/\1/p' "$WORK/$1.serial" | head -1; }
nonce_of() { sed -nE 's/^(boot|tick [0-9]+) ([0-9a-f]{16})$/\2/p' "$WORK/$1.serial" | sort -u; }

# ticks_on NAME [N]: waits until the guest has printed N more ticks (3).
ticks_on() {
	local more=$(($(ticks_of "$1") + ${2:-3}))
	until_true 20 ticked "$1" "$more" || fail "the guest of $1 does not go on"
}
ticks_of() { grep -Ec '^tick [0-9]+ [0-9a-f]{16}$' "$WORK/$1.serial" 2>/dev/null || true; }
ticked() { [ "$(ticks_of "$1")" -ge "$2" ]; }

# frozen_at NAME: pauses the guest and prints the number of its last tick, or of
# the one that it is just printing: the rest of that line is the restored guest's.
frozen_at() {
	ctl "$1" pause >/dev/null
	last_tick "$1"
}

# unbroken NAME..: the serial lines of these machines, one behind the other, are
# the life of one guest: each tick once, one nonce, a boot only at the start.
# The last line may be unfinished.
unbroken() {
	local name
	for name; do cat "$WORK/$name.serial"; done | awk '
		function check() {
			if ($1 == "boot" && NF == 2 && seen == 0)
				nonce = $2
			else if ($1 == "tick" && NF == 3 && (!last || $2 == last + 1) &&
				 (nonce == "" || $3 == nonce)) {
				last = $2
				nonce = $3
			} else
				# A guest frozen in the middle of a line goes on with its rest.
				bad = seen > 0 || $0 !~ /^[tick]* ?[0-9]* ?[0-9a-f]*$/
			if (bad) {
				print "line " seen + 1 ": " $0 | "cat >&2"
				exit 1
			}
			seen++
		}
		NR > 1 { line = $0; $0 = before; check(); $0 = line }
		{ before = $0 }
		END { exit bad || seen < 2 }' || fail "the serial lines of $* are not one guest's life"
}

# sums DIR: the digests of a snapshot's files, in layers or not.
sums() {
	local ram=memory.bin
	[ -e "$1/memory.bin" ] || ram='layers/*.ram layers/*.map'
	# shellcheck disable=SC2086 # a pattern
	(cd "$1" && sha256sum manifest.bin state.bin $ram)
}

# gone PID: it has ended, whoever may still have to take note of that.
# Its threads, too: until the last one ends its descriptors are open.
gone() {
	local threads=("/proc/$1/task/"*)
	[ ${#threads[@]} -le 1 ] && ! grep -q '^State:.*[^Z] (' "/proc/$1/status" 2>/dev/null
}

# publisher_of NAME: the pid of the publisher of a vmm.
publisher_of() {
	tr ' ' '\n' <"/proc/${vmm_pid[$1]}/task/${vmm_pid[$1]}/children" | head -n 1
}

# field KEY: what a line of JSON says for this key of its outermost object.
field() { grep -o "\"$1\":\(\"[^\"]*\"\|[^,}]*\)" | head -1 | sed 's/^[^:]*://; s/^"//; s/"$//'; }

# json EXPRESSION: prints what it is in Python, with d the JSON on standard input.
json() { "$python" -c "import json, sys; d = json.load(sys.stdin); print($1)"; }

# of_list NAME KEY: a member of a snapshot in `snapctl list`.
of_list() {
	"$BIN/snapctl" list --json | json "[s['$2'] for s in d if s['name'] == '$1'][0]"
}

# nothing_left STORE: no snapshot half made or half removed lies there.
nothing_left() {
	[ -z "$(ls -A "$1/staging" "$1/trash" | grep -v ':$')" ] || {
		find "$1/staging" "$1/trash" >&2
		fail "something is left in $1"
	}
}

# ram_fd NAME: a path of the RAM file that vmm has open, also where it has no name.
ram_fd() {
	find "/proc/${vmm_pid[$1]}/fd" -lname "$STORE/ram/*"
}

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
