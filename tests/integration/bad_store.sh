#!/usr/bin/env bash
# A store that cannot be one, or cannot be written, is said with its path; a guest
# whose save fails for that goes on.
. "$(dirname "$0")/lib.sh"
requires_kvm

demo=("$BIN/vmm" --demo-guest --memory 4M --serial none --store)
: >"$WORK/file"
refused 1 "$WORK/file is not a directory" "${demo[@]}" "$WORK/file"
refused 1 "$WORK/file" "$BIN/snapctl" --store "$WORK/file" list
refused 1 "$WORK/file/below is not a directory" "${demo[@]}" "$WORK/file/below"
refused 2 "--store" "${demo[@]}" ""
refused 1 "no store at $WORK/none" "$BIN/snapctl" --store "$WORK/none" list
[ ! -e "$WORK/none" ] || fail "list made a store"
refused 3 "/proc/none" "${demo[@]}" /proc/none

# snapshots/ is a file.
mkdir "$WORK/odd"
: >"$WORK/odd/snapshots"
refused 1 "$WORK/odd/snapshots is not a directory" "${demo[@]}" "$WORK/odd"

# As somebody who may not write there, or not even look.
if [ "$(id -u)" -eq 0 ] && command -v setpriv >/dev/null; then
	nobody=(setpriv --reuid 65534 --regid 65534 --clear-groups)
	"$TOOLS/mksnap" "$STORE" base 1 >/dev/null
	chmod 0711 "$WORK"
	# The programs are perhaps where nobody may look.
	mkdir -m 0755 "$WORK/bin"
	cp "$BIN/vmm" "$BIN/snapctl" "$WORK/bin"
	if "${nobody[@]}" "$WORK/bin/snapctl" --version >/dev/null 2>&1; then
		refused 3 "Permission denied" "${nobody[@]}" "$WORK/bin/snapctl" --store "$STORE" list
		says "$STORE"
		if [ -w /dev/kvm ] && "${nobody[@]}" test -w /dev/kvm; then
			refused 3 "$STORE" "${nobody[@]}" "$WORK/bin/vmm" --demo-guest --memory 4M --serial none --store "$STORE"
		else
			refused 3 "/dev/kvm" "${nobody[@]}" "$WORK/bin/vmm" --demo-guest --memory 4M --serial none --store "$STORE"
		fi
		expect 0 "$BIN/snapctl" verify base
		# Whose stamps are these? Not to be believed if another could have written them.
		chmod 0666 "$STORE/stamps.db"
		[ "$("$BIN/snapctl" check 2>&1 | grep -c stamps.db)" -ge 1 ] || fail "check does not see it"
	else
		echo "not tried: another user cannot run the programs here"
	fi
fi
