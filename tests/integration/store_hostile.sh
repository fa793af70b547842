#!/usr/bin/env bash
# What others wrote (a manifest, names of files) reaches terminals and JSON as
# plain text, whatever is in it.
. "$(dirname "$0")/lib.sh"
requires python3

"$TOOLS/mksnap" "$STORE" good 1 >/dev/null
cp -a "$STORE/snapshots/good" "$STORE/snapshots/bad"
chmod u+w "$STORE/snapshots/bad/manifest.bin"
# Another creator, architecture and digest: escape sequences, and no UTF-8.
python3 - "$STORE/snapshots/bad/manifest.bin" <<'EOF'
import hashlib, sys
b = open(sys.argv[1], 'rb').read()[:-32]
assert b.count(b'mksnap') == 1 and b.count(b'x86_64') == 1
b = b.replace(b'mksnap', b'\x1b[2J\xff\n').replace(b'x86_64', b'\x1b]0;\xfe\xff')
open(sys.argv[1], 'wb').write(b + hashlib.sha256(b[:-3]).digest())
EOF
esc=$(printf '\033')
: >"$STORE/snapshots/file${esc}[2J"
mkdir "$STORE/snapshots/$(printf '\033[3J\377')"

# plain WHAT: the last `expect` printed nothing that a terminal obeys.
plain() {
	LC_ALL=C sed 's/\xef\xbf\xbd//g' "$WORK/out" >"$WORK/rest"
	! LC_ALL=C grep -q "[^[:print:][:space:]]" "$WORK/rest" || {
		cat -v "$WORK/out" >&2
		fail "'$*' prints what a terminal obeys"
	}
}
for command in "list" "show bad" "show good" "status"; do
	expect 0 "$BIN/snapctl" $command
	plain "$command"
	expect 0 "$BIN/snapctl" $command --json
	plain "$command --json"
	python3 -m json.tool <"$WORK/out" >/dev/null || fail "'$command --json' is no JSON"
done
expect 0 "$BIN/snapctl" show bad
says creator
expect 1 "$BIN/snapctl" check
plain check
says "file"
expect 1 "$BIN/snapctl" check --json
plain "check --json"
python3 -m json.tool <"$WORK/out" >/dev/null || fail "'check --json' is no JSON"
refused 2 "no snapshot name" "$BIN/snapctl" rm "$(printf 'a\033[2J\377')"
plain "rm"

# A store at such a place, too.
mv "$STORE" "$WORK/$(printf 'st\033[2J\377')"
SNAPFS_STORE=$WORK/$(printf 'st\033[2J\377')
export SNAPFS_STORE
for command in "show good" "status"; do
	expect 0 "$BIN/snapctl" $command
	plain "$command"
	expect 0 "$BIN/snapctl" $command --json
	python3 -m json.tool <"$WORK/out" >/dev/null || fail "'$command --json' is no JSON"
done
refused 1 "there is no snapshot" "$BIN/snapctl" show other
plain "show other"
