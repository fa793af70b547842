#!/usr/bin/env bash
# SEEK_DATA and SEEK_HOLE are the backing file's, so that copies stay sparse.
. "$(dirname "$0")/lib.sh"
requires_fuse
requires python3

"$TOOLS/mksnap" "$STORE" base 8 >/dev/null
mount_snapfs "$STORE" "$WORK/mnt"
python3 - "$STORE/snapshots/base" "$WORK/mnt/base" <<'PYTHON' || fail "extents differ"
import errno, os, sys

def extents(path):
    found, at = [], 0
    with open(path, "rb") as f:
        size = os.fstat(f.fileno()).st_size
        while at < size:
            try:
                data = os.lseek(f.fileno(), at, os.SEEK_DATA)
            except OSError as e:
                assert e.errno == errno.ENXIO
                break
            at = os.lseek(f.fileno(), data, os.SEEK_HOLE)
            found.append((data, at))
    return found

for name in "memory.bin", "state.bin", "manifest.bin":
    store, mount = (extents(d + "/" + name) for d in sys.argv[1:3])
    assert store == mount, (name, store, mount)
assert len(extents(sys.argv[2] + "/memory.bin")) > 10
size = os.stat(sys.argv[2] + "/status").st_size
assert extents(sys.argv[2] + "/status") == [(0, size)]
PYTHON
cp --sparse=auto "$WORK/mnt/base/memory.bin" "$WORK/copy"
[ "$(stat -c %b "$WORK/copy")" -lt 12000 ] || fail "the copy is not sparse"
