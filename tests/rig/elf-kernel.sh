#!/usr/bin/env bash
# Runs elf-guest.sh with the ELF kernel out of Debian's bzImage, booted by PVH.
#
#     elf-kernel.sh SERIES [OPTION...]
#
# SERIES is the guest's kernel; the options are run.sh's.
set -euo pipefail
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"

[ $# -ge 1 ] || die "usage: elf-kernel.sh SERIES [OPTION...]"
series=$1
known_kernel "$series"
kernel=$(kernel_dir "$series") || {
	status=$?
	echo "$kernel"
	exit $status
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$rig_dir/vmlinux.sh" "$kernel/vmlinuz" "$work/vmlinux"
cd "$rig_dir"
./run.sh --kernel 6.1 --l2-kernel "$series" "${@:2}" elf-guest.sh "$work/vmlinux"
