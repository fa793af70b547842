#!/usr/bin/env bash
# A file that nobody has verified yet is served at once, each block checked by its
# tree: the wrong block alone is EIO, the others are right. A tree that is wrong, another's or
# missing is no damage.
. "$(dirname "$0")/lib.sh"
requires_fuse
requires python3

snaps=$STORE/snapshots
names="good flipped last wrongtree othertree notree cuttree shorttree"
seed=0
for name in $names; do
	seed=$((seed + 1))
	"$TOOLS/mksnap" "$STORE" "$name" 24 "$seed" '' 1 >/dev/null
	for file in memory.bin disks/disk0.0; do
		cp "$snaps/$name/$file" "$WORK/$name.${file##*/}"
		# A changed time takes the stamp's ground away.
		chmod u+w "$snaps/$name/$file" "$snaps/$name/${file%.bin}.tree"
		touch "$snaps/$name/$file"
	done
done
flip "$snaps/flipped/memory.bin" 12345678
flip "$snaps/last/memory.bin" $((24 * 1048576 - 1))
flip "$snaps/flipped/disks/disk0.0" 4096
flip "$snaps/wrongtree/memory.tree" 5000
flip "$snaps/wrongtree/disks/disk0.0.tree" 40
cp "$snaps/good/memory.tree" "$snaps/othertree/memory.tree"
rm "$snaps/notree/memory.tree" "$snaps/notree/disks/disk0.0.tree"
truncate -s 8192 "$snaps/cuttree/memory.tree"
truncate -s 0 "$snaps/shorttree/memory.tree"
mnt=$WORK/mnt
mount_snapfs "$STORE" "$mnt"
for name in $names; do
	grep -q '^state: *unverified$' "$mnt/$name/status" || fail "$name: $(cat "$mnt/$name/status")"
done

# blocks_wrong FILE WANT: the numbers of the blocks that one descriptor gives EIO for.
blocks_wrong() {
	"$python" - "$1" "$2" <<'PY'
import errno, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
want = open(sys.argv[2], 'rb').read()
bad = []
for at in range(0, len(want), 4096):
	try:
		if os.pread(fd, 4096, at) != want[at:at + 4096]:
			sys.exit('block %d has other bytes' % (at // 4096))
	except OSError as e:
		if e.errno != errno.EIO:
			raise
		bad.append(at // 4096)
print(*bad)
PY
}
check() {
	local got
	got=$(blocks_wrong "$mnt/$1/$2" "$WORK/$1.${2##*/}") || fail "$1/$2"
	[ "$got" = "$3" ] || fail "$1/$2: blocks '$got' are refused, not '$3'"
}
check flipped memory.bin 3014
check flipped disks/disk0.0 1
check last memory.bin 6143
grep -q '^state: *damaged$' "$mnt/flipped/status" || fail "$(cat "$mnt/flipped/status")"
grep -q '^problem: .*is wrong' "$mnt/flipped/status" || fail "$(cat "$mnt/flipped/status")"
for name in good wrongtree othertree notree cuttree shorttree; do
	check "$name" memory.bin ""
	check "$name" disks/disk0.0 ""
	is_valid() { grep -q '^state: *valid$' "$mnt/$name/status"; }
	until_true 20 is_valid || fail "$name: $(cat "$mnt/$name/status")"
done
# Parts of blocks, and beyond the end.
touch "$snaps/good/memory.bin"
[ "$(dd if="$mnt/good/memory.bin" bs=1 skip=4000 count=200 status=none | sha256sum)" = \
	"$(dd if="$WORK/good.memory.bin" bs=1 skip=4000 count=200 status=none | sha256sum)" ] || fail "a part"
[ -z "$(dd if="$mnt/good/memory.bin" bs=1M skip=24 status=none | head -c 10)" ] || fail "beyond the end"

# A tree that is wrong has the file hashed, once for each open. What comes after that is seen:
# a change of it is EIO, and one that was found bad stays it, mended or not.
"$python" - "$mnt" "$snaps" "$WORK" <<'PY' || fail "a file under a wrong tree"
import concurrent.futures, os, subprocess, sys
mnt, snaps, work = sys.argv[1:]
BLOCK = 4096

def flip(path, at):
	with open(path, 'r+b') as f:
		f.seek(at)
		byte = f.read(1)[0]
		f.seek(at)
		f.write(bytes([byte ^ 1]))

def refused(fd, at):
	try:
		os.pread(fd, BLOCK, at)
		return False
	except OSError:
		return True

# By now its tree has been made anew or not: it is made wrong, all of level 0.
def spoil_tree(name):
	path = '%s/%s/memory.tree' % (snaps, name)
	os.chmod(path, 0o600)
	for at in range(BLOCK, os.path.getsize(path), BLOCK):
		flip(path, at + 5)

def unstamp(name):
	path = '%s/%s/memory.bin' % (snaps, name)
	os.chmod(path, 0o600)
	os.utime(path)
	return path

spoil_tree('wrongtree')
path = unstamp('wrongtree')
fd = os.open('%s/wrongtree/memory.bin' % mnt, os.O_RDONLY)
with open('%s/wrongtree.memory.bin' % work, 'rb') as f:
	assert os.pread(fd, BLOCK, 0) == f.read(BLOCK)
# Far from what the kernel has read ahead.
flip(path, 8 << 20)
if not refused(fd, 8 << 20):
	sys.exit('a change after the hash is served')
if not refused(fd, 12 << 20):
	sys.exit('a changed file is served')
os.close(fd)
flip(path, 8 << 20)

spoil_tree('good')
path = unstamp('good')
flip(path, 20 << 20)
fd = os.open('%s/good/memory.bin' % mnt, os.O_RDONLY)
with concurrent.futures.ThreadPoolExecutor(8) as pool:
	if not all(pool.map(lambda i: refused(fd, i << 20), range(8))):
		sys.exit('a damaged file is served')
problem = subprocess.run(['grep', '^problem:', '%s/good/status' % mnt],
			 capture_output=True, text=True).stdout
if 'memory.bin' not in problem or 'block' in problem:
	sys.exit('it says ' + problem)
flip(path, 20 << 20)
if not refused(fd, 9 << 20):
	sys.exit('the outcome was forgotten')
os.close(fd)
PY
