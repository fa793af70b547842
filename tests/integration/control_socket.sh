#!/usr/bin/env bash
# The control socket: 0600, a dead one is replaced, a live one and other files are
# refused; many clients, pieces, pipelines, garbage and clients that leave.
. "$(dirname "$0")/lib.sh"
requires_kvm
requires python3

start_vmm a --demo-guest --memory 8M
wait_line a '^tick 3 '
[ "$(stat -c '%a %F' "$WORK/a.sock")" = "600 socket" ] || fail "$(stat -c '%a %F' "$WORK/a.sock")"

demo=("$BIN/vmm" --demo-guest --memory 8M --serial none --control)
refused 1 "in use" "${demo[@]}" "$WORK/a.sock"
: >"$WORK/file"
refused 1 "$WORK/file" "${demo[@]}" "$WORK/file"
[ -f "$WORK/file" ] || fail "a file was replaced by the socket"
refused 1 "in use" "${demo[@]}" "$WORK"
ln -s nowhere "$WORK/symlink"
refused 1 "$WORK/symlink" "${demo[@]}" "$WORK/symlink"
refused 3 "No such file" "${demo[@]}" "$WORK/none/sock"
refused 2 "1 to 107 bytes" "${demo[@]}" "$WORK/$(printf '%0120d' 0)"
refused 2 "--control" "${demo[@]}" ""
ctl a status >/dev/null || fail "the live socket suffers from the refused ones"

# The socket of a machine that was killed is replaced.
start_vmm dead --demo-guest --memory 8M
until_true 10 test -S "$WORK/dead.sock" || fail "no socket"
kill -9 "${vmm_pid[dead]}"
wait "${vmm_pid[dead]}" 2>/dev/null || true
[ -S "$WORK/dead.sock" ] || fail "there is no dead socket to be replaced"
start_vmm dead --demo-guest --memory 8M
wait_line dead '^tick 3 '
until_true 10 ctl dead status >/dev/null || fail "the dead socket is not replaced"
quit_vmm dead
[ ! -e "$WORK/dead.sock" ] || fail "the socket is left"

cat >"$WORK/play.py" <<'EOF'
import json, os, socket, sys, time

path = sys.argv[1]

def dial():
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    s.settimeout(20)
    return s

def lines(s, n):
    """The next n answers; fewer where the other side ends."""
    data = b""
    while data.count(b"\n") < n:
        more = s.recv(65536)
        if not more:
            break
        data += more
    return [json.loads(l) for l in data.splitlines()]

def ask(s, text):
    s.sendall(text + b"\n")
    return lines(s, 1)[0]

def check(what, true):
    if not true:
        sys.exit("FAILED: " + what)

# 16 clients at once are served; one more is turned away, and room is made again.
many = [dial() for _ in range(16)]
for s in many:
    check("16 clients", ask(s, b"status")["ok"])
extra = dial()
try:
    extra.sendall(b"status\n")
    check("a 17th client", lines(extra, 1) == [])
except (BrokenPipeError, ConnectionResetError):
    pass
for s in many:
    check("16 clients after a 17th", ask(s, b"status")["ok"])
    s.close()
extra.close()
for _ in range(100):
    try:
        s = dial()
        if ask(s, b"status")["ok"]:
            break
    except (OSError, IndexError):
        time.sleep(0.05)
else:
    sys.exit("FAILED: no room is made again")

# In pieces, and many in one.
for c in b"status\n":
    s.send(bytes([c]))
    time.sleep(0.002)
check("a command in pieces", lines(s, 1)[0]["state"] == "running")
s.sendall(b"\n\r\n  \nstatus\r\npause\nstatus\nbogus\nresume\nstatus\n")
got = lines(s, 6)
check("a pipeline: %r" % got, [a.get("state", a["ok"]) for a in got] ==
      ["running", True, "paused", False, True, "running"])

# Behind a save the other lines wait for their turn.
s.sendall(b"snap p1\nstatus\nsnap p2\nsnap p1\nstatus\n")
got = lines(s, 5)
check("saves in a pipeline: %r" % got, [a["ok"] for a in got] == [True, True, True, False, True])
check("their order", got[0]["name"] == "p1" and got[1]["parent"] == got[0]["id"] and
      got[2]["name"] == "p2" and got[4]["parent"] == got[2]["id"])

# The answer comes also to who has ended its own side.
t = dial()
t.sendall(b"snap p3\nstatus\n")
t.shutdown(socket.SHUT_WR)
got = lines(t, 3)
check("answers after the end: %r" % got, [a["ok"] for a in got] == [True, True])

# Two saves at a time: one is refused with words.
u = dial()
t = dial()
t.sendall(b"snap p4\n")
u.sendall(b"snap p5\n")
got = lines(t, 1) + lines(u, 1)
check("two saves at once: %r" % got, all(a["ok"] or "under way" in a["error"] for a in got) and
      any(a["ok"] for a in got))

# A line without end is refused, and the client with it.
t = dial()
t.sendall(b"x" * 4096)
got = lines(t, 2)
check("a long line: %r" % got, len(got) == 1 and "too long" in got[0]["error"])
t = dial()
got = ask(t, b"snap " + b"n" * 4000)
check("a long name: %r" % got, not got["ok"] and "too long" in got["error"])

# Garbage: one answer a line, each JSON.
t = dial()
for junk in (b"\xff\xfe\xfd", b"snap \xff\xfe", b"snap a\x1b[2Jb", b"{\"execute\":\"quit\"}", b"\x01\x02",
             b"quit\x00", b"snap p6\x00x", b"GET / HTTP/1.1", b"snap ..", b"snap ''"):
    got = ask(t, junk)
    check("%r: %r" % (junk, got), got["ok"] is False and got["error"])
t = dial()
try:
    t.sendall(os.urandom(200000))
    t.close()
except OSError:
    pass

# Clients that leave: at once, in a line, in a save, before their answers.
for text in (b"", b"stat", b"snap gone1\n", b"status\n" * 500, b"snap gone2\nstatus\nsnap gone3\n"):
    t = dial()
    t.sendall(text)
    t.close()
for _ in range(200):
    if ask(u, b"status")["save"] == "none":
        break
    time.sleep(0.05)
check("after all this", ask(u, b"status")["state"] == "running")
EOF
timeout 60 python3 "$WORK/play.py" "$WORK/a.sock" || fail "the control socket"
ticks_on a
unbroken a
saved() { "$BIN/snapctl" list --json | json "sorted(s['name'] for s in d)"; }
until_true 10 eval 'saved | grep -q gone1' || fail "a save whose client has gone is not finished: $(saved)"
saved | grep -q p6 && fail "a name with a NUL is taken"
until_true 10 eval "ctl a status | grep -q '\"save\":\"none\"'"
expect 0 "$BIN/snapctl" verify --all
nothing_left "$STORE"
quit_vmm a
