#!/usr/bin/env bash
# A listing of many snapshots is whole, also where it is read in parts and
# changed meanwhile.
. "$(dirname "$0")/lib.sh"
requires_fuse
requires python3

"$TOOLS/mksnap" "$STORE" base 1 >/dev/null
for i in $(seq 600); do
	cp -a "$STORE/snapshots/base" "$STORE/snapshots/a-name-that-takes-its-room-in-a-listing-$i"
done
mount_snapfs "$STORE" "$WORK/mnt"
# shellcheck disable=SC2012 # ls is what is tested
[ "$(ls "$WORK/mnt" | sort)" = "$( (ls "$STORE/snapshots"; echo latest) | sort)" ] ||
	fail "the listing is not whole"
# shellcheck disable=SC2010
[ "$(ls -l "$WORK/mnt" | grep -c '^d')" -eq 601 ] || fail "the long listing is not whole"
# rewinddir(3) and seekdir(3) through the same open directory.
python3 - "$WORK/mnt" <<'PYTHON' || fail "seekdir"
import ctypes, os, sys

libc = ctypes.CDLL(None, use_errno=True)
libc.opendir.restype = ctypes.c_void_p
libc.readdir.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long
for f in libc.readdir, libc.telldir, libc.rewinddir:
    f.argtypes = [ctypes.c_void_p]
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
d = libc.opendir(sys.argv[1].encode())

def name():
    p = libc.readdir(d)
    return p and ctypes.string_at(p + 19)

def rest():
    found = []
    while (n := name()):
        found.append(n)
    return found

whole = []
while True:
    at = libc.telldir(d)
    n = name()
    if not n:
        break
    whole.append((at, n))
assert len(set(n for _, n in whole)) == len(whole) == 606, len(whole)
for i in 0, 1, 3, 4, 5, 300, 604, 299, 4:
    libc.seekdir(d, whole[i][0])
    assert rest() == [n for _, n in whole[i:]], i
libc.rewinddir(d)
assert rest() == [n for _, n in whole]
PYTHON
