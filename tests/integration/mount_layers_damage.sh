#!/usr/bin/env bash
# Damage in a layer: the pages that show the wrong block are refused, and no others;
# status and log name file and block. Layers that mean no good are refused with words.
. "$(dirname "$0")/lib.sh"
requires_fuse
requires python3

snaps=$STORE/snapshots
mnt=$WORK/mnt
# Each of its own: the others would share its files.
make() {
	"$TOOLS/mksnap" "$STORE" "$1-base" 16 1 >/dev/null
	"$TOOLS/mksnap" "$STORE" "$1-one" 16 --parent "$1-base" --pages 3,10-19,40z 2 >/dev/null
	"$TOOLS/mksnap" "$STORE" "$1" 16 --parent "$1-one" --pages 0z,11-12,41 3 >/dev/null
	"$BIN/snapctl" rm "$1-base" "$1-one" >/dev/null
	chmod -R u+w "$snaps/$1"
}
hostile="missing nomap badmap link fifo fifomap"
for name in good below above hidden notree wrongtree $hostile; do make "$name"; done
mount_snapfs "$STORE" "$mnt"
cp "$mnt/good/memory.bin" "$WORK/flat"
umount "$mnt"
for name in below above hidden notree wrongtree; do touch "$snaps/$name"/layers/*.ram; done
flip "$snaps/below/layers/0.ram" $((32 * 4096 + 7))
flip "$snaps/above/layers/1.ram" $((10 * 4096)) # page 19
flip "$snaps/hidden/layers/1.ram" $((2 * 4096)) # page 11, which layer 2 covers
rm "$snaps/notree/layers/"*.tree
flip "$snaps/wrongtree/layers/0.tree" 9000
rm "$snaps/missing/layers/1.ram"
rm "$snaps/nomap/layers/1.map"
flip "$snaps/badmap/layers/2.map" 20
mv "$snaps/link/layers" "$WORK/layers"
ln -s "$WORK/layers" "$snaps/link/layers"
rm "$snaps/fifo/layers/1.ram" && mkfifo "$snaps/fifo/layers/1.ram"
rm "$snaps/fifomap/layers/1.map" && mkfifo "$snaps/fifomap/layers/1.map"

mkdir -p "$mnt"
"$BIN/snapfs" -f -o noverify --store "$STORE" "$mnt" 2>"$WORK/log" &
test_pids+=("$!")
until_true 10 test -d "$mnt/good" || fail "not mounted"

# pages_wrong FILE: the pages that one descriptor gives EIO for.
pages_wrong() {
	timeout 60 "$python" - "$1" "$WORK/flat" <<'PY'
import errno, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
want = open(sys.argv[2], 'rb').read()
bad = []
for at in range(0, len(want), 4096):
	try:
		if os.pread(fd, 4096, at) != want[at:at + 4096]:
			sys.exit('page %d has other bytes' % (at // 4096))
	except OSError as e:
		if e.errno != errno.EIO:
			raise
		bad.append(at // 4096)
print(*bad)
PY
}
# check NAME PAGES
check() {
	local got
	got=$(pages_wrong "$mnt/$1/memory.bin") || fail "$1"
	[ "$got" = "$2" ] || fail "$1: pages '$got' are refused, not '$2'"
}
becomes() { grep -q "^state: *$2\$" "$mnt/$1/status"; }
check good ""
check below 32
check above 19
check hidden ""
for name in below above hidden; do
	until_true 20 becomes "$name" damaged || fail "$(cat "$mnt/$name/status")"
done
grep -q '^problem: .*layers/0.ram.* block 32 ' "$mnt/below/status" || fail "$(cat "$mnt/below/status")"
grep -q '^problem: .*layers/1.ram.* block 10 ' "$mnt/above/status" || fail "$(cat "$mnt/above/status")"
grep -q '^layer: *layers/1.ram, .*: damaged' "$mnt/above/status" || fail "$(cat "$mnt/above/status")"
grep -q '^layer: *layers/0.ram, .*: \(stamped\|not verified\)' "$mnt/above/status" ||
	fail "$(cat "$mnt/above/status")"
grep -q 'above.*damaged.*layers/1.ram' "$WORK/log" || fail "no word in the log"
# A tree is no part of the snapshot.
for name in notree wrongtree; do
	check "$name" ""
	until_true 20 becomes "$name" valid || fail "$(cat "$mnt/$name/status")"
done
# Refused, with words, at once.
for name in $hostile; do
	ls -lR "$mnt/$name" "$mnt/.layers" >/dev/null 2>&1 || true
	! timeout 10 cat "$mnt/$name/memory.bin" >/dev/null 2>"$WORK/err" || fail "$name is served"
	grep -q "Input/output error" "$WORK/err" || fail "$name: $(cat "$WORK/err")"
	becomes "$name" damaged || fail "$name: $(cat "$mnt/$name/status")"
	grep -q '^problem: .*layers' "$mnt/$name/status" || fail "$name: $(cat "$mnt/$name/status")"
done
check good ""
becomes good valid || fail "$(cat "$mnt/good/status")"
# Mended, it is good again.
flip "$snaps/above/layers/1.ram" $((10 * 4096))
check above ""
until_true 20 becomes above valid || fail "$(cat "$mnt/above/status")"
