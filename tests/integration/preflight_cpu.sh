#!/usr/bin/env bash
# What a snapshot needs of a host's CPU and KVM, and what its state.bin must not be,
# is said in one report, before anything is started; each alone is one sentence.
. "$(dirname "$0")/lib.sh"
requires_kvm
export ASAN_OPTIONS="detect_leaks=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}"

demo_snapshot base
forged=$WORK/forged
anew() {
	rm -rf "$forged"
	cp -r "$STORE/snapshots/base" "$forged"
	chmod -R u+w "$forged"
}
forge() { "$TOOLS/forge" "$forged/manifest.bin" "$@"; }
restore=("$BIN/vmm" --restore-snapshot "$forged" --serial "file=$WORK/serial")

# A feature of leaf 7 EDX that no CPU has had: reserved as of today.
impossible="CPUID 0x7.0 EDX bit 0"
anew
forge cpuid=7.0.edx.0 vendor=TransmetaCPU state_vcpu_version=3 state_kvm_version=4 \
	state_device_version=9 state_device_more=teapot state_device_more=serial0 \
	state_msr=0x12345:1
for how in "" --check; do
	expect 1 timeout 30 "${restore[@]}" $how
	for words in "uses $impossible, which this host has not" "of 'TransmetaCPU'" \
		"a vCPU of version 3" "KVM's part of version 4" "of version 9" \
		"device teapot, which is unknown" "device serial0 is there twice" \
		"the MSR 0x12345, which this host's KVM does not have"; do
		says "$words"
	done
	[ "$(wc -l <"$WORK/out")" -eq 8 ] || fail "not one sentence each: $(cat "$WORK/out")"
	[ "$(grep -c '^vmm: ' "$WORK/out")" -eq 8 ] || fail "lines without a name"
	[ ! -e "$WORK/serial" ] || fail "something of the host is touched"
done

while read -r change words; do
	anew
	forge "$change"
	refused 1 "$words" "${restore[@]}"
	refused 1 "$words" "${restore[@]}" --check
	[ ! -e "$WORK/serial" ] || fail "something of the host is touched"
done <<EOF
cpuid=7.0.edx.0 the snapshot uses $impossible, which this host has not
cpuid=a.0.eax.1 shows performance counters, which this program does not save
vendor=GenuineTest the snapshot's CPU is of 'GenuineTest'
state_version=2 a machine of version 2
state_kvm_version=2 KVM's part of version 2
state_vcpu_version=2 a vCPU of version 2
state_device_version=77 of version 77, this program reads up to
state_device_more=teapot a device teapot, which is unknown
state_device_more=rtc device rtc is there twice
state_msr=0x48aa:7 the snapshot uses the MSR 0x48aa
EOF

# An MSR that this host does not know, at its value after a reset, is said and no obstacle.
anew
forge state_msr=0x48aa:0
expect 0 "${restore[@]}" --check
says "does not have the MSR 0x48aa"
says "can be restored here"
[ "$(wc -l <"$WORK/out")" -eq 2 ] || fail "$(cat "$WORK/out")"

# A TSC that this host cannot give: where KVM scales it, it can.
anew
forge tsc_khz=12345
if "$BIN/vmm" --check-host --store none | grep -q '^tsc_control: yes'; then
	expect 0 "${restore[@]}" --check
else
	refused 1 "TSC runs at 12345 kHz" "${restore[@]}" --check
fi

# --cpu: what is not known is said with what is; a profile is in the snapshot, and is kept.
refused 2 "there are host, x86-64-v1, x86-64-v2, x86-64-v3, x86-64-v4" \
	"$BIN/vmm" --demo-guest --cpu 486 --serial none
refused 2 "exclude each other" "${restore[@]}" --cpu host
start_vmm v1 --demo-guest --memory 16M --processors 2 --cpu x86-64-v1
wait_line v1 '^tick 3 '
ctl v1 "snap profile" >"$WORK/out"
quit_vmm v1
start_vmm v1r --restore-snapshot "$STORE/snapshots/profile"
ticks_on v1r
ctl v1r "snap profile2" >"$WORK/out"
quit_vmm v1r
start_vmm v1rr --restore-snapshot "$STORE/snapshots/profile2"
ticks_on v1rr
quit_vmm v1rr
# A host has a level, and says so by running on, or names what it lacks.
for level in 2 3 4; do
	status=0
	timeout 3 "$BIN/vmm" --demo-guest --memory 16M --cpu x86-64-v$level --serial "file=$WORK/v" \
		>"$WORK/out" 2>&1 </dev/null || status=$?
	[ "$status" -ne 124 ] || continue
	[ "$status" -eq 1 ] || fail "--cpu x86-64-v$level ended with $status: $(cat "$WORK/out")"
	says "--cpu x86-64-v$level needs "
	says ", which this host's KVM does not have"
	[ "$(wc -l <"$WORK/out")" -eq 1 ] || fail "$(cat "$WORK/out")"
done
