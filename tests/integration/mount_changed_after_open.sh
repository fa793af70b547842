#!/usr/bin/env bash
# A file that is changed while it is open: what was not verified is EIO at the next read of
# what changed, by whichever way it was checked, and everything else stays right; what was
# stamped is seen by those who have it open alone, where the kernel reads it. The next open
# finds the damage, also where the times were put back.
. "$(dirname "$0")/lib.sh"
requires_fuse
requires python3

snaps=$STORE/snapshots
mnt=$WORK/mnt
"$TOOLS/mksnap" "$STORE" good 4 1 '' 1 >/dev/null

# fresh NAME: a copy that nobody has verified.
fresh() {
	rm -rf "${snaps:?}/$1"
	cp -r "$snaps/good" "$snaps/$1"
	chmod -R u+w "$snaps/$1"
}

# block FD N FILE: what the open file gives of block N: "right" (as in the good snapshot),
# "changed" (something else), "EIO", or "nothing".
block() {
	"$python" - "$1" "$2" "$snaps/good/$3" <<'PY'
import errno, os, sys
fd, at = int(sys.argv[1]), int(sys.argv[2]) * 4096
with open(sys.argv[3], 'rb') as f:
	want = os.pread(f.fileno(), 4096, at)
try:
	got = os.pread(fd, 4096, at)
	print('nothing' if not got else 'right' if got == want else 'changed')
except OSError as e:
	print(errno.errorcode[e.errno])
PY
}

# gives WHAT FD N FILE
gives() {
	local got
	got=$(block "$2" "$3" "$4")
	[[ "$got" =~ ^($1)$ ]] || fail "block $3 of $4 is '$got', not '$1'"
}

# found NAME FILE: the next open finds the damage.
found() {
	local other
	expect 1 timeout 20 cat "$mnt/$1/$2"
	says "Input/output error"
	grep -q '^state: *damaged$' "$mnt/$1/status" || fail "$(cat "$mnt/$1/status")"
	grep -q "^problem: .*$2" "$mnt/$1/status" || fail "$(cat "$mnt/$1/status")"
	for other in state.bin memory.bin disks/disk0.0; do
		[ "$other" = "$2" ] || cmp "$mnt/$1/$other" "$snaps/good/$other" || fail "$other suffers"
	done
}

# --- not verified ---

# unverified NAME FILE: it is open as 5, the first block of it read.
unverified() {
	exec 5<"$mnt/$1/$2"
	gives right 5 0 "$2"
}
not_verified() {
	local file name=$1 blocks last
	for file in memory.bin disks/disk0.0; do
		blocks=$(($(stat -c %s "$snaps/good/$file") / 4096))
		last=$((blocks - 1))

		# Its tree is there.
		fresh "$name-tree"
		unverified "$name-tree" "$file"
		flip "$snaps/$name-tree/$file" $((200 * 4096 + 7))
		gives EIO 5 200 "$file"
		gives right 5 "$last" "$file"
		gives right 5 100 "$file"
		found "$name-tree" "$file"

		# With the times that it had.
		fresh "$name-times"
		unverified "$name-times" "$file"
		touch -r "$snaps/$name-times/$file" "$WORK/times"
		flip "$snaps/$name-times/$file" $((200 * 4096 + 7))
		touch -r "$WORK/times" "$snaps/$name-times/$file"
		gives EIO 5 200 "$file"
		found "$name-times" "$file"

		# Its tree was of no use for that part of it, and it was hashed whole.
		fresh "$name-hashed"
		case $file in
		memory.bin) flip "$snaps/$name-hashed/memory.tree" 4100 ;;
		*) flip "$snaps/$name-hashed/$file.tree" 4100 ;;
		esac
		unverified "$name-hashed" "$file"
		sleep 0.05
		flip "$snaps/$name-hashed/$file" $((200 * 4096 + 7))
		gives EIO 5 200 "$file"
		gives 'right|EIO' 5 100 "$file"
		found "$name-hashed" "$file"

		# Cut, and made longer.
		fresh "$name-cut"
		unverified "$name-cut" "$file"
		truncate -s $((150 * 4096)) "$snaps/$name-cut/$file"
		gives EIO 5 200 "$file"
		gives right 5 100 "$file"
		found "$name-cut" "$file"
		fresh "$name-long"
		unverified "$name-long" "$file"
		truncate -s +4096 "$snaps/$name-long/$file"
		gives right 5 "$last" "$file"
		gives nothing 5 "$blocks" "$file"
		found "$name-long" "$file"
		exec 5<&-
	done
}

# --- stamped ---

# stamped NAME FILE: it is open as 5, known to be good.
stamped() {
	cat "$mnt/$1/$2" >"$WORK/read"
	expect 0 "$BIN/snapctl" verify "$1"
	grep -q '^state: *valid$' "$mnt/$1/status" || fail "$(cat "$mnt/$1/status")"
	"$TOOLS/bench_time" drop "$mnt/$1/$2"
	exec 5<"$mnt/$1/$2"
	gives right 5 0 "$2"
}
known_good() {
	local file name=$1 who=$2
	for file in memory.bin disks/disk0.0; do
		fresh "$name-stamped"
		stamped "$name-stamped" "$file"
		sleep 0.05
		flip "$snaps/$name-stamped/$file" $((200 * 4096 + 7))
		# Where the daemon reads it, it sees that the file is not what it was.
		gives "$who" 5 200 "$file"
		found "$name-stamped" "$file"

		fresh "$name-back"
		stamped "$name-back" "$file"
		touch -r "$snaps/$name-back/$file" "$WORK/times"
		flip "$snaps/$name-back/$file" $((200 * 4096 + 7))
		touch -r "$WORK/times" "$snaps/$name-back/$file"
		found "$name-back" "$file"
		exec 5<&-
	done
}

for how in kernel daemon; do
	options=noverify
	[ "$how" = kernel ] || options+=,nopassthrough
	mount_snapfs "$STORE" "$mnt" -o "$options"
	not_verified "$how"
	if "$BIN/snapctl" status | grep -q '^ *reads *passthrough$'; then
		known_good "$how" changed
	else
		known_good "$how" 'EIO|right'
	fi
	for file in memory.bin disks/disk0.0; do
		cmp "$mnt/good/$file" "$snaps/good/$file" || fail "good/$file suffers"
	done
	umount "$mnt"
done
