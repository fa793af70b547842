#!/usr/bin/env bash
# Standard input that is a regular file is run to its end, also behind a long piece
# and without a last newline; one that is closed, or another job's terminal, does no harm.
. "$(dirname "$0")/lib.sh"
requires_kvm
requires python3

# vmm_reads [OPTION..]: its standard input is the test's.
# shellcheck disable=SC2120
vmm_reads() { timeout 60 "$BIN/vmm" --demo-guest --memory 8M --serial none "$@" >"$WORK/out" 2>&1; }

printf 'status\nquit' >"$WORK/commands"
vmm_reads <"$WORK/commands" || fail "a short file: it ends with $?"
says "state: running"

{ printf 'bogus%.0s\n' {1..1000} && printf 'snap one\nquit'; } >"$WORK/commands"
vmm_reads <"$WORK/commands" || fail "a long file: it ends with $?"
[ "$(grep -c "unknown command" "$WORK/out")" -eq 1000 ] || fail "not every line was run"
says "name: one"

# A line that does not fit is not run cut off.
{ printf 'snap %s/%02000d\n' "$WORK" 1 && echo quit; } >"$WORK/commands"
vmm_reads <"$WORK/commands" || fail "a long line: it ends with $?"
says "the line is too long"

# Closed descriptors: what is opened next does not get their numbers.
"$BIN/vmm" --demo-guest --memory 8M --control "$WORK/closed.sock" <&- >&- 2>&- &
vmm_pid[closed]=$!
test_pids+=("$!")
until_true 10 test -S "$WORK/closed.sock" || fail "no control socket"
for fd in 0 1 2; do
	[ "$(readlink "/proc/${vmm_pid[closed]}/fd/$fd")" = /dev/null ] || fail "descriptor $fd"
done
ctl closed "save-snapshot two" >/dev/null
quit_vmm closed
expect 0 "$BIN/snapctl" verify --all

# In the background of a terminal: it runs, and leaves the terminal as it is.
python3 - "$BIN/vmm" "$WORK" <<'END' || fail "as a background job"
import os, pty, socket, subprocess, sys, termios, time
vmm, work = sys.argv[1:]
main, terminal = pty.openpty()
child = os.fork()
if child == 0:
    os.setsid()
    os.close(os.open(os.ttyname(terminal), os.O_RDWR))  # the controlling terminal
    before = termios.tcgetattr(terminal)
    p = subprocess.Popen([vmm, "--demo-guest", "--memory", "8M", "--serial", "none",
                          "--control", work + "/job.sock"], stdin=terminal,
                         preexec_fn=lambda: os.setpgid(0, 0))
    for _ in range(500):
        time.sleep(0.02)
        if os.path.exists(work + "/job.sock"):
            break
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(10)
    ok = 1
    try:
        s.connect(work + "/job.sock")
        s.sendall(b"quit\n")
        ok = b"ok" not in s.recv(100) or p.wait(10) != 0
    finally:
        p.kill()
        os._exit(ok or before != termios.tcgetattr(terminal))
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
END
