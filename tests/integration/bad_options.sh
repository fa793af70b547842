#!/usr/bin/env bash
# What cannot be booted is refused with one sentence that names the file or option,
# the right exit status (1 refused, 2 usage), and nothing made or lost.
. "$(dirname "$0")/lib.sh"
requires_kvm

vmm=("$BIN/vmm" --serial none)
refused 2 "nothing to boot" "${vmm[@]}"
refused 1 "--kernel $WORK/none" "${vmm[@]}" --kernel "$WORK/none"
: >"$WORK/empty"
head -c 100000 /dev/urandom >"$WORK/noise"
cp "$BIN/vmm" "$WORK/program"
for file in empty noise; do
	refused 1 "--kernel $WORK/$file" "${vmm[@]}" --kernel "$WORK/$file"
	says "not a Linux bzImage"
done
refused 1 "without an entry point for PVH" "${vmm[@]}" --kernel "$WORK/program"
gzip -c "$WORK/noise" >"$WORK/packed"
refused 1 "compressed with gzip: unpack it" "${vmm[@]}" --kernel "$WORK/packed"
refused 1 "$WORK" "${vmm[@]}" --kernel "$WORK"
"$TOOLS/mkkernel" "$WORK/kernel"
head -c 1000 "$WORK/kernel" >"$WORK/short"
refused 1 "$WORK/short" "${vmm[@]}" --kernel "$WORK/short"
cp "$WORK/kernel" "$WORK/old"
printf '\x0b\x02' | dd of="$WORK/old" bs=1 seek=$((0x206)) conv=notrunc status=none
refused 1 "64-bit" "${vmm[@]}" --kernel "$WORK/old"
cp "$WORK/kernel" "$WORK/away"
printf '\0\0\0\0\0\1\0\0' | dd of="$WORK/away" bs=1 seek=$((0x258)) conv=notrunc status=none
refused 1 "$WORK/away" "${vmm[@]}" --kernel "$WORK/away"
refused 1 "--initrd $WORK/none" "${vmm[@]}" --kernel "$WORK/kernel" --initrd "$WORK/none"
refused 1 "too small" "${vmm[@]}" --kernel "$WORK/kernel" --memory 2M
head -c 20000000 /dev/zero >"$WORK/initrd"
refused 1 "too small" "${vmm[@]}" --kernel "$WORK/kernel" --initrd "$WORK/initrd" --memory 16M
refused 1 "--cmdline" "${vmm[@]}" --kernel "$WORK/kernel" --memory 16M --cmdline "$(printf '%0300d' 0)"
refused 2 "leave --kernel" "${vmm[@]}" --demo-guest --kernel "$WORK/kernel"

demo=("${vmm[@]}" --demo-guest)
refused 2 "--memory" "${demo[@]}" --memory 0
refused 2 "--memory" "${demo[@]}" --memory 1M
refused 2 "4096" "${demo[@]}" --memory 16777217
for size in junk 16X -1 "" " " 1e6 99999999999999999999G 0x; do
	refused 2 "memory" "${demo[@]}" --memory "$size"
done
refused 1 "this host has" "${demo[@]}" --memory 1000000G
refused 1 "this host has" "${demo[@]}" --memory $(($(awk '/MemTotal/ { print $2 }' /proc/meminfo) + 2000000))K
refused 2 "--processors" "${demo[@]}" --processors 0
refused 2 "1 to 32" "${demo[@]}" --processors 33
refused 2 "processors" "${demo[@]}" --processors many
refused 2 "bogus" "${demo[@]}" --bogus
refused 2 "operand" "${demo[@]}" operand
refused 2 "kernel" "${vmm[@]}" --kernel
refused 2 "--serial" "$BIN/vmm" --demo-guest --serial telnet
refused 2 "--serial" "$BIN/vmm" --demo-guest --serial file=
refused 3 "$WORK/none/serial" "$BIN/vmm" --demo-guest --serial "file=$WORK/none/serial"
refused 2 "--restore-snapshot" "${vmm[@]}" --restore-snapshot "$WORK" --demo-guest
refused 2 "--restore-snapshot" "${vmm[@]}" --restore-snapshot "$WORK" --memory-backing-file "$WORK/ram"
expect 0 "$BIN/vmm" --help
says "usage"
expect 0 "$BIN/vmm" --version
says "vmm"
expect 0 timeout 30 "$BIN/vmm" --check-host
says "/dev/kvm"
[ ! -e "$WORK/ram" ] || fail "a RAM file for nothing"
[ -z "$(find "$STORE" -type f -size +1M 2>/dev/null)" ] || fail "RAM files are left"
