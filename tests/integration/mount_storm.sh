#!/usr/bin/env bash
# Many opens at once. First of files that nobody has verified yet: one verification each,
# all get the right bytes, and listings are answered meanwhile. Then of some 300 snapshots,
# verified, not verified and damaged, while they are verified, renamed, removed and new ones
# come: no other byte, no error but for damage, and the daemon holds nothing at the end.
# SEED=N asks for the same again.
. "$(dirname "$0")/lib.sh"
requires_fuse

seed=${SEED:-$RANDOM}
echo "seed $seed"
snaps=$STORE/snapshots
mnt=$WORK/mnt
mkdir "$mnt"
test_mounts+=("$mnt")

# start_daemon OPTION..: serves the store at $mnt as $daemon, its words in $WORK/log.
start_daemon() {
	"$BIN/snapfs" -f -v "$@" --store "$STORE" "$mnt" 2>"$WORK/log" &
	daemon=$!
	test_pids+=("$daemon")
	until_true 10 mountpoint -q "$mnt" || fail "not mounted"
}
end_daemon() {
	local status=0
	umount "$mnt" || fail "it is in use"
	wait "$daemon" || status=$?
	[ "$status" -eq 0 ] || fail "it ended with $status"
}

# --- one verification each ---

for i in 1 2 3; do
	"$TOOLS/mksnap" "$STORE" "s$i" 12 "$i" >/dev/null
	# A changed time takes the stamp's ground away.
	touch "$snaps/s$i/memory.bin"
done
start_daemon
grep -q '^state: *unverified$' "$mnt/s1/status" || fail "s1 counts as verified"

for i in 1 2 3; do
	sha256sum <"$snaps/s$i/memory.bin" >"$WORK/want.$i"
done
jobs=()
for n in $(seq 60); do
	i=$((n % 3 + 1))
	sha256sum <"$mnt/s$i/memory.bin" >"$WORK/got.$n" &
	jobs+=("$!")
done
for _ in $(seq 20); do
	ls -lR "$mnt" >/dev/null || true
done
for pid in "${jobs[@]}"; do
	wait "$pid" || fail "a read failed"
done
for n in $(seq 60); do
	cmp "$WORK/got.$n" "$WORK/want.$((n % 3 + 1))" || fail "wrong bytes"
done
for i in 1 2 3; do
	[ "$(grep -c "verifying s$i/memory.bin" "$WORK/log")" -eq 1 ] || {
		cat "$WORK/log"
		fail "s$i was not verified exactly once"
	}
	until_true 20 grep -q '^state: *valid$' "$mnt/s$i/status" || fail "s$i is not valid"
done
end_daemon
"$BIN/snapctl" rm s1 s2 s3

# --- all kinds, while all changes ---

want=$WORK/want
mkdir "$want"
for c in 0 1 2 3 4 5; do
	"$TOOLS/mksnap" "$STORE" "c$c" 1 $((c + 1)) >/dev/null
	cp -r "$snaps/c$c" "$want/"
done
# fill KIND NUMBER: so many copies, which nobody has verified.
fill() {
	local i
	for i in $(seq "$2"); do cp -r "$want/c$((i % 6))" "$snaps/c$((i % 6))-$1-$i"; done
}
fill stays 120
fill bad 30
fill ren 60
fill rm 90
for dir in "$snaps"/c?-bad-*; do
	chmod u+w "$dir/memory.bin"
	flip "$dir/memory.bin" $((seed * 31 % 1048576))
done
# Each second one is known to be good, or damaged.
names=("$snaps"/c?-*-*[02468])
"$BIN/snapctl" verify "${names[@]##*/}" >"$WORK/out" 2>&1 || true
state_of() { sed -n 's/^state: *//p' "$mnt/$1/status"; }

start_daemon -o verify_after=2
[ "$(state_of c2-stays-2)" = valid ] || fail "c2-stays-2: $(state_of c2-stays-2)"
[ "$(state_of c1-stays-1)" = unverified ] || fail "c1-stays-1: $(state_of c1-stays-1)"
[ "$(state_of c2-bad-2)" = damaged ] || fail "c2-bad-2: $(state_of c2-bad-2)"

# Each of these goes on until there is $WORK/stop.
goes_on() { [ ! -e "$WORK/stop" ]; }
verifies() {
	local status
	while goes_on; do
		status=0
		"$BIN/snapctl" verify --all >/dev/null 2>&1 || status=$?
		# Some are damaged; one that goes meanwhile is missing.
		[ "$status" -eq 1 ] || fail "verify ended with $status"
	done
}
renames() {
	local path name
	while goes_on; do
		for path in "$snaps"/c?-ren-*; do
			goes_on || return 0
			name=${path##*/}
			case $name in
			*-again) "$BIN/snapctl" rename "$name" "${name%-again}" ;;
			*) "$BIN/snapctl" rename "$name" "$name-again" ;;
			esac
		done
	done
}
removes() {
	local path
	for path in "$snaps"/c?-rm-*; do
		goes_on || return 0
		"$BIN/snapctl" rm "${path##*/}"
		sleep 0.05
	done
}
# By a publisher, and by hand: the one is verified, the other is not. And they go again.
makes() {
	local n=0 c
	while goes_on; do
		n=$((n + 1)) c=$((n % 6))
		"$TOOLS/mksnap" "$STORE" "c$c-new-$n" 1 $((c + 1)) >/dev/null
		cp -r "$want/c$c" "$WORK/by-hand"
		mv "$WORK/by-hand" "$snaps/c$c-hand-$n"
		[ "$n" -le 5 ] || "$BIN/snapctl" rm "c$(((n - 5) % 6))-new-$((n - 5))"
	done
	echo "$n" >"$WORK/made"
}
others=()
for what in verifies renames removes makes; do
	$what >"$WORK/$what.out" 2>&1 &
	others+=("$!")
done
ok=yes
"$TOOLS/storm" "$mnt" "$want" 4 16 "$seed" || ok=no
touch "$WORK/stop"
for i in 0 1 2 3; do
	wait "${others[i]}" || {
		cat "$WORK"/{verifies,renames,removes,makes}.out >&2
		fail "one of those that change the store failed"
	}
done
[ $ok = yes ] || fail "the storm (SEED=$seed)"
[ "$(cat "$WORK/made")" -gt 3 ] || fail "no more than $(cat "$WORK/made") were made meanwhile"

# What was opened is closed again; the directories are, once the kernel forgets their names,
# as it does when the mount is mounted anew. Pipes are libfuse's, for each of its threads.
holds() { find "/proc/$daemon/fd" "$@" -printf '%l\n'; }
holds_no_file() { [ -z "$(holds '(' -lname '*.bin*' -o -lname '*.tree*' ')')" ]; }
until_true 10 holds_no_file || fail "the daemon has files open: $(holds -lname "$STORE/*")"
if [ "$(id -u)" -eq 0 ] && mount -i -o remount,ro "$mnt"; then
	holds_nothing() { [ -z "$(holds -lname "$STORE/*/*")" ]; }
	until_true 10 holds_nothing || fail "the daemon has directories open: $(holds -lname "$STORE/*/*")"
else
	echo "not tried: directories that stay open: only root can mount anew"
fi
end_daemon
