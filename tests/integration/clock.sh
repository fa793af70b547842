#!/usr/bin/env bash
# --clock: a restored guest's kvmclock goes on from where it stood, or with the time
# since. Seen in the state that the restored machine, still paused, saves again.
. "$(dirname "$0")/lib.sh"
requires_kvm
export ASAN_OPTIONS="detect_leaks=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}"

# clock_of NAME: kvmclock and the first vCPU's TSC in seconds, of a snapshot.
clock_of() { "$TOOLS/stateclock" "$STORE/snapshots/$1/state.bin"; }

# between X LOW HIGH
between() { awk -v x="$1" -v a="$2" -v b="$3" 'BEGIN { exit !(x >= a && x <= b) }'; }

demo_snapshot base
hour_old=$WORK/hour_old
cp -r "$STORE/snapshots/base" "$hour_old"
chmod -R u+w "$hour_old"
"$TOOLS/forge" "$hour_old/manifest.bin" "clock=$(($(date +%s) - 3600))"
read -r clock tsc < <(clock_of base)

# resaved NAME DIR OPTION..: restores it, paused, and saves it as NAME.
resaved() {
	local name=$1 dir=$2
	shift 2
	start_vmm "$name" --restore-snapshot "$dir" --paused "$@"
	until_true 20 ctl "$name" status >"$WORK/out" || fail "$name does not start"
	ctl "$name" "snap $name" >"$WORK/out"
	ctl "$name" resume >"$WORK/out"
	ticks_on "$name"
	quit_vmm "$name"
}

while read -r name low high options; do
	# shellcheck disable=SC2086
	resaved "$name" "$hour_old" $options
	read -r clock_after tsc_after < <(clock_of "$name")
	for pair in "$clock $clock_after kvmclock" "$tsc $tsc_after TSC"; do
		read -r before after what <<<"$pair"
		if [ "$what" = TSC ] && grep -q "keeps its own TSC" "$WORK/$name.log"; then
			echo "$name: this host's KVM sets no TSC: not looked at"
			continue
		fi
		moved=$(awk -v a="$before" -v b="$after" 'BEGIN { print b - a }')
		between "$moved" "$low" "$high" || fail "$name: the $what moved by $moved s"
	done
done <<'EOF'
default 0 60
frozen 0 60 --clock freeze
advanced 3600 3660 --clock advance
EOF

# Never backwards: this host's clock is behind that of the snapshot.
"$TOOLS/forge" "$hour_old/manifest.bin" "clock=$(($(date +%s) + 86400))"
resaved ahead "$hour_old" --clock advance
grep -q "goes on\|go on from where they stood" "$WORK/ahead.log" || fail "nothing is said"
read -r clock_after tsc_after < <(clock_of ahead)
between "$(awk -v a="$clock" -v b="$clock_after" 'BEGIN { print b - a }')" 0 60 ||
	fail "kvmclock went from $clock to $clock_after"

"$TOOLS/forge" "$hour_old/manifest.bin" clock=-9000000000000000000
refused 1 "--clock advance" "$BIN/vmm" --restore-snapshot "$hour_old" --clock advance --serial none
expect 0 "$BIN/vmm" --restore-snapshot "$hour_old" --check
refused 2 "--clock" "$BIN/vmm" --demo-guest --clock advance --serial none
refused 2 "--clock" "$BIN/vmm" --restore-snapshot "$hour_old" --clock stop --serial none
