# shellcheck shell=bash disable=SC2034,SC2154 # variables of those who source it and for them
# Shared by the rig's host-side scripts: where things are, how to stop, what to
# skip. Source it; it starts nothing and writes nothing.

rig_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top_dir=$(cd "$rig_dir/../.." && pwd)
guest_src=$top_dir/tests/guest
cache=${SNAPFS_RIG_CACHE:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/snapfs-rig}

# mke2fs, depmod and modprobe live here, and a plain user's PATH lacks it.
PATH=$PATH:/usr/sbin:/sbin

# Exit statuses, beyond those of the script that ran inside the rig.
readonly ST_ENV=3 ST_SKIP=77 ST_TIMEOUT=124 ST_LOST=125 ST_STILL=126

say() { printf 'rig: %s\n' "$*" >&2; }

# die MESSAGE: the environment failed, the thing under test said nothing.
die() {
	say "$*"
	exit "$ST_ENV"
}

# skip REASON: the rig cannot work on this machine at all.
skip() {
	printf 'skipped: %s\n' "$*"
	exit "$ST_SKIP"
}

# What fails unforeseen is the environment's failure, and says where.
set -E
trap 'die "${BASH_SOURCE[0]##*/}: line $LINENO failed"' ERR

# need COMMAND PACKAGE [COMMAND PACKAGE]...: skip, naming every package that is
# missing, so that one installation is enough.
need() {
	local missing=()
	while [ $# -gt 0 ]; do
		command -v "$1" >/dev/null 2>&1 || missing+=("$2")
		shift 2
	done
	[ ${#missing[@]} -eq 0 ] || skip "missing packages: ${missing[*]}"
}

# known_kernel SERIES: the series the rig has settings for.
known_kernel() {
	case $1 in
	6.1 | 6.12) ;;
	*) die "kernel '$1': only 6.1 and 6.12 are known" ;;
	esac
}

# kernel_dir SERIES: the unpacked kernel's folder in the cache, fetched if need be.
kernel_dir() {
	"$rig_dir/fetch.sh" "$1"
}

# guest_program NAME FOLDER: where it was built, else built here, into $work.
guest_program() {
	local built=$2/guest-$1
	if [ ! -x "$built" ]; then
		need cc gcc
		built=$work/guest-$1
		cc -std=gnu17 -static -O2 -o "$built" "$guest_src/$1.c" >&2
	fi
	echo "$built"
}
