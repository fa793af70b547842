#!/usr/bin/env bash
# The demonstration on this host's own KVM and FUSE, for hosts where both are at
# hand and fast. As root or as a user who may open /dev/kvm.
#
#     demo-host.sh [--bin DIR]
set -euo pipefail
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"

bin=$top_dir/build/bin
[ "${1:-}" != --bin ] || bin=$(cd "$2" && pwd)
need fusermount3 fuse3
[ -w /dev/kvm ] || skip "/dev/kvm cannot be opened"

# Not in RAM: a store on disk shows what a store on disk does.
work=$(mktemp -d -p "${TMPDIR:-/var/tmp}" snapfs-demo.XXXXXX)

# shellcheck disable=SC2317 # called by the trap
cleanup() {
	local file pid
	for file in "$work"/tmp/vm/*.pid; do
		# Only if it is still the process that the demonstration started.
		pid=$(cat "$file" 2>/dev/null) || continue
		! grep -qsz -F "$work" "/proc/$pid/cmdline" || kill "$pid" 2>/dev/null || true
	done
	! mountpoint -q "$work/mnt/snaps" || fusermount3 -u -z "$work/mnt/snaps"
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

kernel=$(kernel_dir 6.1) || {
	status=$?
	echo "$kernel"
	exit $status
}
mkdir -p "$work"/{bin,boot,rig,store,mnt,tmp}
ln -s "$kernel/vmlinuz" "$work/boot/bzImage"
"$rig_dir/initramfs.sh" l2 6.1 "$work/boot/initrd" --guest "$bin/../guest"
install "$rig_dir/lib.sh" "$rig_dir/demo.sh" "$work/rig"
install "$(guest_program ctl "$bin/../guest")" "$work/bin/ctl"
SNAPFS_STAGE=$work PATH=$bin:$work/bin:$PATH sh "$work/rig/demo.sh"
