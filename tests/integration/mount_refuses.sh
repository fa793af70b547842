#!/usr/bin/env bash
# Every call that would change something is refused, each with the right error, for
# whatever there is in the mount and for what is not; nothing of the store changes. So it
# is when the mount has been made writable.
. "$(dirname "$0")/lib.sh"
requires_fuse

mnt=$WORK/mnt
id=$("$TOOLS/mksnap" "$STORE" base 2 1 '' 1)
"$TOOLS/mksnap" "$STORE" child 2 2 "$id" >/dev/null
mount_snapfs "$STORE" "$mnt" -o noverify

# All bytes, names, kinds, modes, owners, times, targets and attributes.
all_of() {
	find "$1" -type f -exec sha256sum {} + | sort
	find "$1" -printf '%p %y %m %U %G %s %n %T@ %l\n' | sort
	if command -v getfattr >/dev/null; then
		getfattr -R -P -d -m - --absolute-names "$1"
	fi
}
# try ro|rw: all of it.
try() {
	mkdir "$WORK/outside"
	"$TOOLS/refused" "$1" "$mnt" base child/parent "$WORK/outside" || fail "the mount, $1"
	[ ! -e "$WORK/outside" ] || fail "something is left outside: $(ls -lR "$WORK/outside")"
	all_of "$STORE" | diff "$WORK/store.before" - || fail "the store was changed, $1"
	all_of "$mnt" | diff "$WORK/mount.before" - || fail "the mount was changed, $1"
}

all_of "$mnt" >"$WORK/mount.before"
all_of "$STORE" >"$WORK/store.before"
try ro
if [ "$(id -u)" -eq 0 ] && mount -i -o remount,rw "$mnt" 2>"$WORK/err"; then
	try rw
else
	echo "not tried: a mount that was made writable: $(cat "$WORK/err" 2>/dev/null || echo "not root")"
fi
