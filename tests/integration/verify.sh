#!/usr/bin/env bash
# snapctl verify as something to leave running: the oldest first, interrupted and gone on
# with, at a limited rate, damage among what is good, trees made anew; one line of JSON each.
. "$(dirname "$0")/lib.sh"

snaps=$STORE/snapshots
for name in a b c d; do "$TOOLS/mksnap" "$STORE" $name 8 >/dev/null; done
verified_at() { "$BIN/snapctl" list --json | python3 -c 'import json, sys
print([s["verified_at"] for s in json.load(sys.stdin) if s["name"] == sys.argv[1]][0])' "$1"; }

# --- lines for programs ---

"$BIN/snapctl" verify --json a b >"$WORK/json"
python3 - "$WORK/json" <<'P' || fail "$(cat "$WORK/json")"
import json, sys
a, b, total = [json.loads(line) for line in open(sys.argv[1])]
assert (a["name"], b["name"]) == ("a", "b") and a["status"] == b["status"] == "valid"
assert a["bytes"] == 8 << 20 and a["seconds"] > 0 and a["verified_at"].startswith("20")
assert len(a["id"]) == 36 and a["id"] != b["id"] and "problem" not in a or a["problem"] is None
assert total["summary"] == "finished" and total["valid"] == 2 and total["bad"] == 0
assert total["left"] == 0 and total["bytes"] == 16 << 20
P

# --- the oldest first ---

"$BIN/snapctl" verify d >/dev/null
sleep 1.1
"$BIN/snapctl" verify b >/dev/null
sleep 1.1
"$BIN/snapctl" verify a c >/dev/null
"$BIN/snapctl" verify --all >"$WORK/out"
[ "$(head -n 2 "$WORK/out" | tr '\n' ' ')" = "d: valid b: valid " ] || fail "$(cat "$WORK/out")"
[ "$("$BIN/snapctl" verify --all --older-than 1h)" = "" ] || fail "--older-than"
sleep 1.1
[ "$("$BIN/snapctl" verify --all --older-than 1s | wc -l)" = 4 ] || fail "--older-than 1s"
expect 2 "$BIN/snapctl" verify --all --older-than soon
expect 2 "$BIN/snapctl" verify --older-than 1h a

# --- interrupted: what is done is kept, the next run begins with the rest ---

sleep 1.1
for signal in INT TERM; do
	rm -f "$WORK/out"
	setsid "$BIN/snapctl" verify --all --limit 4M >"$WORK/out" 2>"$WORK/err" &
	pid=$!
	test_pids+=("$pid")
	until_true 30 grep -q valid "$WORK/out" || fail "nothing is verified"
	kill -s $signal $pid
	rc=0
	wait $pid || rc=$?
	[ $rc = $((128 + $(kill -l $signal))) ] || fail "it ended with $rc"
	grep -q 'interrupted; [1-3] of 4 verified' "$WORK/err" || fail "$(cat "$WORK/err")"
	first=$(sed -n '1s/:.*//p' "$WORK/out")
	sleep 1.1
	"$BIN/snapctl" verify --all >"$WORK/out"
	[ "$(sed -n '$s/:.*//p' "$WORK/out")" = "$first" ] || fail "$first is not the last: $(cat "$WORK/out")"
	sleep 1.1
done

# --- the rate: two of 8 MiB at 8 MiB/s take a second each at least ---

"$BIN/snapctl" verify --json --limit 8M a >"$WORK/json" 2>/dev/null
python3 -c 'import json, sys
one = json.loads(open(sys.argv[1]).readline())
assert one["seconds"] > 0.2, one' "$WORK/json" || fail "no limit: $(cat "$WORK/json")"

# --- damage among the good ---

chmod u+w "$snaps/b/memory.bin"
flip "$snaps/b/memory.bin" 12345
chmod 400 "$snaps/b/memory.bin"
was=$(verified_at c)
sleep 1.1
if "$BIN/snapctl" verify --all --json >"$WORK/json" 2>/dev/null; then fail "b is damaged"; fi
python3 - "$WORK/json" <<'P' || fail "$(cat "$WORK/json")"
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
by = {line["name"]: line for line in lines if "name" in line}
assert by["b"]["status"] == "damaged" and "memory.bin" in by["b"]["problem"], by
assert "block 3" in by["b"]["problem"], by
assert all(by[n]["status"] == "valid" for n in "acd"), by
assert lines[-1]["bad"] == 1 and lines[-1]["valid"] == 3, lines[-1]
P
[ "$(verified_at c)" != "$was" ] || fail "those after the damaged one were not verified"
"$BIN/snapctl" rm b

# --- one that is removed meanwhile is nobody's failure ---

setsid "$BIN/snapctl" verify --all --limit 8M >"$WORK/out" 2>"$WORK/err" &
pid=$!
test_pids+=("$pid")
until_true 30 grep -q valid "$WORK/out" || fail "nothing is verified"
first=$(sed -n '1s/:.*//p' "$WORK/out")
for name in a c d; do [ $name = "$first" ] || gone=$name; done
"$BIN/snapctl" rm "$gone"
wait $pid || fail "it minds that $gone is gone: $(cat "$WORK/err")"

# --- trees ---

name=$first
cp "$snaps/$name/memory.tree" "$WORK/tree"
rm -f "$snaps/$name/memory.tree"
time=$(stat -c %y "$snaps/$name")
expect 1 "$BIN/snapctl" check
grep -q "memory.tree is missing" "$WORK/out" || fail "$(cat "$WORK/out")"
mend=$(sed -n 's/^ *mended by: *//p' "$WORK/out")
(PATH=$BIN:$PATH && $mend) >/dev/null 2>"$WORK/err" || fail "$mend: $(cat "$WORK/err")"
grep -q "memory.tree of snapshot $name was missing: made anew" "$WORK/err" || fail "$(cat "$WORK/err")"
cmp "$WORK/tree" "$snaps/$name/memory.tree" || fail "another tree"
[ "$(stat -c %a "$snaps/$name/memory.tree")" = 400 ] || fail "its mode"
[ "$(stat -c %y "$snaps/$name")" = "$time" ] || fail "the snapshot's time"
expect 0 "$BIN/snapctl" check
chmod u+w "$snaps/$name/memory.tree"
flip "$snaps/$name/memory.tree" 100
"$BIN/snapctl" verify "$name" >/dev/null 2>"$WORK/err" || fail "$(cat "$WORK/err")"
grep -q "was wrong: made anew" "$WORK/err" || fail "$(cat "$WORK/err")"
cmp "$WORK/tree" "$snaps/$name/memory.tree" || fail "another tree"
"$BIN/snapctl" verify "$name" >/dev/null 2>"$WORK/err" || fail "$(cat "$WORK/err")"
[ ! -s "$WORK/err" ] || fail "$(cat "$WORK/err")"
[ -z "$(ls "$STORE/staging")" ] || fail "left in staging/: $(ls "$STORE/staging")"
