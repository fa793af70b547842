#!/usr/bin/env bash
# Many at once on one store: machines that save, names that are listed, renamed and
# removed. Nobody meets a locked database, nothing is lost or left.
. "$(dirname "$0")/lib.sh"
requires_kvm
requires python3

for vm in a b; do start_vmm $vm --demo-guest --memory 4M; done
for vm in a b; do wait_line $vm '^tick 3 '; done
ctl a "snap base" >"$WORK/out"

# loop NAME COMMAND..: five times; its failures in $WORK/loop.NAME.
loop() {
	local name=$1 i
	shift
	for i in 1 2 3 4 5; do
		"$@" "$i" >"$WORK/said.$name" 2>&1 || cat "$WORK/said.$name" >>"$WORK/loop.$name"
	done
}
lists() { "$BIN/snapctl" list --json; }
checks() { "$BIN/snapctl" show base; }
verifies() { "$BIN/snapctl" verify base; }
saves_and_keeps() { ctl a "snap kept-$1"; }
saves_and_removes() { ctl b "snap gone-$1" && "$BIN/snapctl" rm "gone-$1"; }
renames() { cp -r "$STORE/snapshots/base" "$STORE/staged-$1" && mv "$STORE/staged-$1" "$STORE/snapshots/r-$1" && "$BIN/snapctl" rename "r-$1" "s-$1"; }
removes() { cp -r "$STORE/snapshots/base" "$STORE/staged-x$1" && mv "$STORE/staged-x$1" "$STORE/snapshots/x-$1" && "$BIN/snapctl" rm "x-$1"; }
reindexes() { "$BIN/snapctl" reindex; }

jobs=()
for job in lists lists checks verifies saves_and_keeps saves_and_removes renames removes reindexes lists; do
	loop "$job.${#jobs[@]}" $job &
	jobs+=("$!")
	test_pids+=("$!")
done
for job in "${jobs[@]}"; do wait "$job" || fail "a loop ended badly"; done
if compgen -G "$WORK/loop.*" >/dev/null; then
	cat "$WORK"/loop.* >&2
	fail "somebody failed: $(echo "$WORK"/loop.*)"
fi

names() { "$BIN/snapctl" list --json | json "' '.join(sorted(s['name'] + ':' + s['status'] for s in d))"; }
expect 0 "$BIN/snapctl" verify --all
want=base:valid
for n in 1 2 3 4 5; do want+=" kept-$n:valid"; done
for n in 1 2 3 4 5; do want+=" s-$n:valid"; done
[ "$(names)" = "$want" ] || fail "in the end there are: $(names)"
nothing_left "$STORE"
for vm in a b; do
	unbroken $vm
	quit_vmm $vm
done
