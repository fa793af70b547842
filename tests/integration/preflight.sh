#!/usr/bin/env bash
# All that makes a snapshot impossible here is said in one report, before anything
# of the host is touched: a newer version, another architecture, page size, RAM
# that does not add up, too many vCPUs, and what the command line has against it.
. "$(dirname "$0")/lib.sh"
requires_kvm

demo_snapshot base
cp -r "$STORE/snapshots/base" "$WORK/forged"
export ASAN_OPTIONS="detect_leaks=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
forge() { "$TOOLS/forge" "$WORK/forged/manifest.bin" "$@"; }
restore=("$BIN/vmm" --restore-snapshot "$WORK/forged" --serial "file=$WORK/serial")

forge version=1
expect 0 "${restore[@]}" --check

forge version=7 architecture=aarch64 page_size=16384 memory_size=12345 vcpus=99
expect 1 timeout 30 "${restore[@]}" --memory 32M --processors 1
for words in "format version 7" "'aarch64' machine" "pages of 16384 bytes" \
	"12345 bytes does not match its RAM ranges" "99 vCPUs" "--memory says" "--processors says" \
	"memory.bin has 16777216 bytes"; do
	says "$words"
done
[ "$(wc -l <"$WORK/out")" -eq "$(grep -c '^vmm: ' "$WORK/out")" ] || fail "lines without a name"
[ ! -e "$WORK/serial" ] || fail "it opened the serial line"
cp "$WORK/out" "$WORK/report"
expect 1 timeout 30 "${restore[@]}" --memory 32M --processors 1 --check
cmp "$WORK/out" "$WORK/report" || fail "--check says something else"

# And with it what is damaged: one report.
flip "$WORK/forged/state.bin" 100
expect 1 timeout 30 "${restore[@]}"
says "format version 7"
says "state.bin"
flip "$WORK/forged/state.bin" 100

# Each alone is one sentence.
while read -r change words; do
	rm -rf "$WORK/forged"
	cp -r "$STORE/snapshots/base" "$WORK/forged"
	forge "$change"
	refused 1 "$words" "${restore[@]}"
	refused 1 "$words" "${restore[@]}" --check
done <<'EOF'
version=2 format version 2
version=0 format version 0
architecture=riscv64 'riscv64'
architecture= ''
page_size=65536 65536
vcpus=2 vCPUs
EOF

forge vcpus=0
expect 1 timeout 30 "${restore[@]}"
says "the snapshot has 0 vCPUs"

# The store lists a snapshot of another machine, and does not call it damaged.
cp -r "$STORE/snapshots/base" "$STORE/snapshots/foreign"
"$TOOLS/forge" "$STORE/snapshots/foreign/manifest.bin" architecture=aarch64
[ "$(of_list foreign architecture)" = aarch64 ] || fail "list: $("$BIN/snapctl" list --json)"
[ "$(of_list foreign status)" != damaged ] || fail "a foreign one is no damaged one"
