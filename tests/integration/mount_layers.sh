#!/usr/bin/env bash
# A layered snapshot in the mount: memory.bin is the whole RAM, composed, and
# layers/ leads to the files of the layers. A copy is a whole snapshot.
. "$(dirname "$0")/lib.sh"
requires_fuse
requires python3

snaps=$STORE/snapshots
base=$("$TOOLS/mksnap" "$STORE" base 16 1)
one=$("$TOOLS/mksnap" "$STORE" one 16 --parent base --pages 3,10-19,40z,1000-1300,4095 2)
two=$("$TOOLS/mksnap" "$STORE" two 16 --parent one --pages 0z,11-12,41,1200-1210z,4000-4095 3)
mnt=$WORK/mnt
mkdir "$mnt"
test_mounts+=("$mnt")
"$BIN/snapfs" -f --store "$STORE" "$mnt" 2>"$WORK/log" &
test_pids+=("$!")
until_true 10 test -d "$mnt/base" || fail "not mounted"

# flatten NAME: its RAM by its maps, to $WORK/NAME.flat.
cat >"$WORK/flatten.py" <<'PY'
import os, struct, sys
d, out = sys.argv[1:]
ram = bytearray(open(d + '/0.ram', 'rb').read())
n = 1
while os.path.exists('%s/%d.ram' % (d, n)):
	data, m = open('%s/%d.ram' % (d, n), 'rb').read(), open('%s/%d.map' % (d, n), 'rb').read()
	for at in range(16, len(m), 24):
		page, count, first = struct.unpack_from('<QQQ', m, at)
		zeros = first == 2 ** 64 - 1
		ram[page * 4096:(page + count) * 4096] = \
			bytes(count * 4096) if zeros else data[first * 4096:(first + count) * 4096]
	n += 1
open(out, 'wb').write(ram)
PY
for name in one two; do
	"$python" "$WORK/flatten.py" "$snaps/$name/layers" "$WORK/$name.flat"
done

# hidden, but listable
[ "$(ls "$mnt")" = $'base\nlatest\none\ntwo' ] || fail "$(ls -a "$mnt")"
[ "$(ls "$mnt/.layers")" = "$(printf '%s\n' "$one" "$two" | sort)" ] || fail "$(ls "$mnt/.layers")"
[ ! -e "$mnt/.layers/$base" ] || fail "layers of a flat one"
[ ! -e "$mnt/base/layers" ] || fail "a link of a flat one"
[ "$(readlink "$mnt/two/layers")" = "../.layers/$two" ] || fail "the link"
[ "$(ls "$mnt/two/layers/")" = $'0.ram\n1.map\n1.ram\n2.map\n2.ram' ] || fail "$(ls "$mnt/two/layers/")"
[ "$(stat -c %i "$mnt/.layers/$two/..")" = "$(stat -c %i "$mnt/.layers")" ] || fail ".. of layers"
for f in 0.ram 1.ram 1.map 2.ram 2.map; do
	cmp "$snaps/two/layers/$f" "$mnt/two/layers/$f" || fail "$f differs"
	[ "$(stat -c '%s %b' "$mnt/two/layers/$f")" = "$(stat -c '%s %b' "$snaps/two/layers/$f")" ] ||
		fail "$f looks otherwise"
done

for name in one two; do
	m=$mnt/$name
	cmp "$WORK/$name.flat" "$m/memory.bin" || fail "$name/memory.bin"
	[ "$(stat -c %s "$m/memory.bin")" -eq $((16 << 20)) ] || fail "its size"
	[ "$(stat -c %b "$m/memory.bin")" -gt 0 ] || fail "its blocks"
	[ "$(stat -c %b "$m/memory.bin")" -lt $((32 << 10)) ] || fail "it is not sparse"
	grep -q '^state: *valid$' "$m/status" || fail "$(cat "$m/status")"
	grep -q '^memory: *stamped' "$m/status" || fail "$(cat "$m/status")"
	grep -q '^layer: *layers/1.ram, .*: stamped' "$m/status" || fail "$(cat "$m/status")"
	cp --sparse=auto "$m/memory.bin" "$WORK/sparse"
	cmp "$WORK/sparse" "$WORK/$name.flat" || fail "a sparse copy of $name"
	[ "$(stat -c %b "$WORK/sparse")" -lt 16000 ] || fail "holes of $name are lost"
	if command -v fsverity >/dev/null; then
		digest=$(json "d['memory_digest']" <"$m/manifest.json")
		[[ "$(fsverity digest "$m/memory.bin")" == *"$digest"* ]] || fail "digest of $name"
	fi
done
[ "$(json "len(d['layers'])" <"$mnt/two/manifest.json")" -eq 3 ] || fail "manifest.json"

# Copies: flat from the mount; with layers if links are followed; as it is from the store.
cp -r "$mnt/two" "$snaps/flat"
cp -rL "$mnt/two" "$snaps/followed"
mkdir "$snaps/untarred" "$snaps/tarred"
tar -C "$mnt/two" -cf - . | tar -C "$snaps/untarred" -xf -
tar -C "$snaps/two" -cf - . | tar -C "$snaps/tarred" -xf -
for name in flat followed untarred tarred; do
	chmod -R u+wX "$snaps/$name"
	"$BIN/snapctl" verify "$name" >"$WORK/out" 2>&1 || fail "$name: $(cat "$WORK/out") $(ls -lR "$snaps/$name")"
	cmp "$WORK/two.flat" "$mnt/$name/memory.bin" || fail "$name/memory.bin"
	is_valid() { grep -q '^state: *valid$' "$mnt/$name/status"; }
	until_true 10 is_valid || fail "$name: $(cat "$mnt/$name/status")"
done

# Reads of any kind by many at once, of layered and flat ones, known and unknown.
touch "$snaps/two/layers/1.ram" "$snaps/base/memory.bin"
cat >"$WORK/storm.py" <<'PY'
import mmap, os, random, sys
for path, want in zip(sys.argv[1::2], sys.argv[2::2]):
	want = open(want, 'rb').read()
	for _ in range(8):
		fd = os.open(path, os.O_RDONLY)
		held = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
		for _ in range(100):
			at = random.randrange(len(want))
			n = random.choice((1, 4096, 70000))
			assert os.pread(fd, n, at) == want[at:at + n], (path, at, n)
			assert held[at:at + n] == want[at:at + n], (path, at, n)
		held.close()
		os.close(fd)
PY
cp "$snaps/base/memory.bin" "$WORK/base.flat"
pids=()
for _ in 1 2 3 4 5 6; do
	"$python" "$WORK/storm.py" "$mnt/two/memory.bin" "$WORK/two.flat" "$mnt/base/memory.bin" \
		"$WORK/base.flat" "$mnt/one/memory.bin" "$WORK/one.flat" \
		"$mnt/two/layers/0.ram" "$WORK/base.flat" &
	pids+=("$!")
done
for pid in "${pids[@]}"; do wait "$pid" || fail "a reader of the storm"; done
is_valid() { grep -q '^state: *valid$' "$mnt/two/status"; }
until_true 20 is_valid || fail "$(cat "$mnt/two/status")"

# The parents go while a child is open; it is whole by itself.
exec 5<"$mnt/two/memory.bin"
"$BIN/snapctl" rm one base
cmp "$WORK/two.flat" <(cat <&5) || fail "a child whose parents are gone"
cmp "$WORK/two.flat" "$mnt/two/memory.bin" || fail "opened anew"
exec 6<"$mnt/two/memory.bin"
"$BIN/snapctl" rm two
cmp "$WORK/two.flat" <(cat <&6) || fail "a removed one that is open"
# Its id is a copy's now.
[ -d "$mnt/.layers/$two" ] || fail "the layers of the copy"
! grep -q damaged "$WORK/log" || fail "$(cat "$WORK/log")"
