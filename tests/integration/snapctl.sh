#!/usr/bin/env bash
# snapctl's commands: what they print, for people and as JSON, and their exit status.
. "$(dirname "$0")/lib.sh"
requires python3
ctl=$BIN/snapctl

refused 1 "no store" "$ctl" list
mkdir "$WORK/plain"
refused 1 "not a store" "$ctl" --store "$WORK/plain" list
[ -z "$(ls -A "$WORK/plain")" ] || fail "it left something in a directory that is no store"

first=$("$TOOLS/mksnap" "$STORE" first 2 1)
second=$("$TOOLS/mksnap" "$STORE" second 1 2 "$first")

# list
expect 0 "$ctl" list
says first
says second
says "1 MiB"
[ "$(wc -l <"$WORK/out")" -eq 3 ] || fail "list: $(cat "$WORK/out")"
"$ctl" list --json | json "[[s[k] for k in ('name', 'id', 'architecture', 'memory_bytes', 'vcpus', 'parent',
	'parent_name', 'layers', 'tags', 'status')] for s in sorted(d, key=lambda s: s['name'])] == [
	['first', '$first', 'x86_64', 2 << 20, 1, None, None, 0, [], 'valid'],
	['second', '$second', 'x86_64', 1 << 20, 1, '$first', 'first', 0, [], 'valid']] and all(
	__import__('re').fullmatch(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z', s['created_at']) and
	0 < s['unique_bytes'] <= s['stored_bytes'] < s['memory_bytes'] + 65536 for s in d)" >"$WORK/out"
says True
expect 0 "$ctl" --store "$STORE" list
SNAPFS_STORE=$WORK/elsewhere expect 0 "$ctl" --store "$STORE" list
(cd "$WORK" && expect 0 "$ctl" --store store list)

# show
expect 0 "$ctl" show second
says "$second"
"$ctl" show --json first | json "d['name'] == d['name_at_creation'] == 'first' and d['id'] == '$first' and
	d['path'] == '$STORE/snapshots/first' and len(d['memory_digest']) == 64 and d['format_version'] == 1" >"$WORK/out"
says True
expect 0 "$ctl" show "$first"
says first
refused 1 "none" "$ctl" show none
refused 2 "NAME" "$ctl" show
refused 2 "second" "$ctl" show first second

# verify
expect 0 "$ctl" verify first second
says "first: valid"
says "second: valid"
"$ctl" verify --json --all | json "True" 2>/dev/null && fail "verify --json: one object a line"
[ "$("$ctl" verify --json --all | grep -c '"status": "valid"')" -eq 2 ] || fail "verify --json"
refused 1 "none" "$ctl" verify none
expect 1 "$ctl" verify first none
says "first: valid"
says none
refused 2 "--all" "$ctl" verify
refused 2 "both" "$ctl" verify --all first

# rename
expect 0 "$ctl" rename first base
[ "$(of_list base id)" = "$first" ] || fail "a rename changes the id"
[ "$(of_list second parent_name)" = base ] || fail "the parent's name does not follow"
[ -d "$STORE/snapshots/base" ] && [ ! -e "$STORE/snapshots/first" ] || fail "the directory"
"$ctl" show --json base | json "d['name_at_creation']" >"$WORK/out"
says first
refused 1 "second already" "$ctl" rename base second
refused 1 "first" "$ctl" rename first third
refused 2 "latest" "$ctl" rename base latest
refused 2 "letters, digits" "$ctl" rename base a/b
refused 2 "NEW" "$ctl" rename base
expect 0 "$ctl" verify base second

# check and status
expect 0 "$ctl" check
says "nothing is wrong"
[ "$("$ctl" check --json)" = "[]" ] || fail "check --json: $("$ctl" check --json)"
"$ctl" status --json | json "d['snapshots'] == 2 and d['by_status']['valid'] == 2 and d['index'] == 'ok' and
	d['store'] == '$STORE' and d['free_bytes'] > 0" >"$WORK/out"
says True
expect 0 "$ctl" status
says "valid"
chmod 0644 "$STORE/snapshots/second/memory.bin"
: >"$STORE/snapshots/stranger"
mkdir "$STORE/snapshots/.hidden"
expect 1 "$ctl" check
says "memory.bin can be written"
says "chmod 0400 $STORE/snapshots/second/memory.bin"
says "stranger"
says ".hidden"
"$ctl" check --json >"$WORK/out" && fail "check --json ends with 0"
json "len(d) >= 3 and all(set(f) == {'about', 'problem', 'mend'} for f in d)" <"$WORK/out" >"$WORK/says"
grep -q True "$WORK/says" || fail "check --json: $(cat "$WORK/out")"
rm -r "$STORE/snapshots/stranger" "$STORE/snapshots/.hidden"
chmod 0400 "$STORE/snapshots/second/memory.bin"
expect 0 "$ctl" check

# rm
refused 1 "none" "$ctl" rm none
refused 2 "NAME" "$ctl" rm
expect 1 "$ctl" rm none base
says none
[ ! -e "$STORE/snapshots/base" ] || fail "the other name was not removed"
[ "$(of_list second parent)" = "$first" ] || fail "the parent's id is lost"
[ "$(of_list second parent_name)" = None ] || fail "the parent that is gone has a name"
expect 0 "$ctl" verify second
nothing_left "$STORE"
expect 0 "$ctl" rm second
[ "$("$ctl" list --json)" = "[]" ] || fail "an empty store: $("$ctl" list --json)"
expect 0 "$ctl" list
[ -z "$(find "$STORE/snapshots" "$STORE/ram" -type f)" ] || fail "files are left"

# usage
refused 2 "command" "$ctl"
refused 2 "bogus" "$ctl" bogus
refused 2 "bogus" "$ctl" list --bogus
refused 2 "store" "$ctl" --store
refused 2 "extra" "$ctl" list extra
refused 2 "publish" "$ctl" publish
expect 0 "$ctl" --help
says "Usage"
expect 0 "$ctl" rm --help
says "rm NAME"
expect 0 "$ctl" --version
says snapctl

# What cannot be printed is no success.
if [ -w /dev/full ]; then
	status=0
	"$ctl" status >/dev/full 2>"$WORK/out" || status=$?
	[ "$status" -eq 3 ] || fail "printing to a full disk ends with $status"
	says "No space left"
fi
