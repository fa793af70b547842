#!/usr/bin/env bash
# On a terminal the guest's serial line is the terminal: Ctrl-a c is the prompt and
# back, Ctrl-a x quits, and the terminal is given back as it was.
. "$(dirname "$0")/lib.sh"
requires_kvm
requires python3

cat >"$WORK/play.py" <<'EOF'
import os, pty, re, select, signal, sys, termios, time

vmm = sys.argv[1:]
master, slave = pty.openpty()
before = termios.tcgetattr(slave)
pid = os.fork()
if pid == 0:
    os.setsid()
    import fcntl
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for fd in (0, 1, 2):
        os.dup2(slave, fd)
    os.closerange(3, 100)
    os.execv(vmm[0], vmm)

seen = b""

def read(seconds):
    global seen
    if select.select([master], [], [], seconds)[0]:
        seen += os.read(master, 65536)

def fail(why):
    print("FAILED:", why, "\n", seen.decode(errors="replace")[-2000:])
    os.kill(pid, signal.SIGKILL)
    sys.exit(1)

def wait(pattern, seconds=20):
    """Waits for it, and forgets all up to its end."""
    global seen
    end = time.monotonic() + seconds
    while True:
        m = re.search(pattern, seen)
        if m:
            seen = seen[m.end():]
            return m
        if time.monotonic() > end:
            fail("never seen: %r" % pattern)
        read(0.1)

def type(text):
    os.write(master, text)

wait(rb"Ctrl-a c for the prompt, Ctrl-a x to quit\r\n")
nonce = wait(rb"boot ([0-9a-f]{16})\r?\n").group(1)
wait(rb"tick 3 " + nonce)
if termios.tcgetattr(slave)[3] & (termios.ECHO | termios.ICANON | termios.ISIG):
    fail("the terminal is not raw")
type(b"\x03\x03")               # the guest's, not a signal
wait(rb"tick")

type(b"\x01c")
wait(rb"vmm> ")
type(b"statux\x7fs\r")          # erased, and typed right
wait(rb"state: running")
wait(rb"vmm> ")
type(b"snap base\r")
wait(rb"name: base")
wait(rb"vmm> ")
type(b"rubbish\x15quiet\x03")   # a line thrown away by Ctrl-u, one by Ctrl-c
type(b"bogus\r")
wait(rb"unknown command")
type(b"pause\r")
wait(rb"done")
wait(rb"vmm> ")
time.sleep(0.1)
read(0)
seen = b""
time.sleep(0.2)
read(0)
if b"tick" in seen:
    fail("it ticks while it is paused")
type(b"resume\r")
wait(rb"done")
wait(rb"tick \d+ " + nonce)
type(b"\x01c")
wait(rb"\(guest\)")
wait(rb"tick \d+ " + nonce)
type(b"quit\r\x01\x01")         # the guest's: it does not end vmm
wait(rb"tick \d+ " + nonce)
wait(rb"tick \d+ " + nonce)
type(b"\x01x")
end = time.monotonic() + 20
while True:
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
        break
    if time.monotonic() > end:
        fail("Ctrl-a x does not end it")
    read(0.05)
if status:
    fail("it ended with %d" % status)
if termios.tcgetattr(slave) != before:
    fail("the terminal is not as it was")
EOF
python3 "$WORK/play.py" "$BIN/vmm" --demo-guest --memory 8M || fail "booting on a terminal"
expect 0 "$BIN/snapctl" verify base

# A signal gives the terminal back, too; so does a machine that cannot start.
cat >"$WORK/given_back.py" <<'EOF'
import os, pty, select, signal, sys, termios, time

sig, vmm = int(sys.argv[1]), sys.argv[2:]
master, slave = pty.openpty()
before = termios.tcgetattr(slave)
pid = os.fork()
if pid == 0:
    for fd in (0, 1, 2):
        os.dup2(slave, fd)
    os.execv(vmm[0], vmm)
seen = b""
end = time.monotonic() + 20
done = 0
sent = False
while not done and time.monotonic() < end:
    if select.select([master], [], [], 0.05)[0]:
        seen += os.read(master, 65536)
    if sig and not sent and b"tick" in seen:
        os.kill(pid, sig)
        sent = True
    done, status = os.waitpid(pid, os.WNOHANG)
if not done:
    os.kill(pid, 9)
sys.exit(0 if done and termios.tcgetattr(slave) == before else 1)
EOF
for sig in 15 1 2; do
	python3 "$WORK/given_back.py" $sig "$BIN/vmm" --demo-guest --memory 8M ||
		fail "the terminal is not given back after signal $sig"
done
python3 "$WORK/given_back.py" 0 "$BIN/vmm" --demo-guest --memory 8M --control "$WORK" ||
	fail "the terminal is not given back by a machine that cannot start"
