#!/usr/bin/env bash
# Builds the initramfs of the rig's two levels, uncompressed: unpacking would
# cost an emulated machine more time than it costs this one to write.
#
#     initramfs.sh l2 SERIES OUT [--guest DIR]
#         the guest: busybox, the counter and what tries devices
#     initramfs.sh l1 SERIES OUT --bin DIR --l2-kernel FILE --l2-initrd FILE SCRIPT [FILE...]
#         the machine that KVM and the project's binaries run in; SCRIPT and the
#         files go to /rig, programs among them with their libraries
#
# It needs no root: nothing is mounted and no device node is made.
set -euo pipefail
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"

# What a guest may meet on our virtual machine; it loads what its devices ask for.
l2_modules=(virtio_mmio virtio_pci virtio_blk virtio_net virtio-rng virtio_balloon virtio_pmem nd_pmem
	virtio_console vmw_vsock_virtio_transport af_packet button evdev)

# For KVM, the mount, the store's disk and its accidents, and guests' networks.
l1_modules=(kvm_amd fuse ext4 virtio_pci virtio_blk loop dm_mod dm_log_writes dm_flakey tun)

# add_busybox ROOT: with all its names.
add_busybox() {
	local name
	install -D "$(command -v busybox)" "$1/bin/busybox"
	for name in $(busybox --list); do
		[ "$name" = busybox ] || ln -s busybox "$1/bin/$name"
	done
	mkdir -p "$1"/{dev,proc,sys,tmp,run,root,etc,mnt,sbin,usr/bin,usr/sbin,var/lib}
}

# add_modules ROOT KERNEL_DIR MODULE...: with what they depend on, unpacked,
# because busybox loads no compressed ones; what is built in is left out.
add_modules() {
	local root=$1 kernel=$2 release file to
	shift 2
	release=$(<"$kernel/release")
	for module; do
		modprobe -C /dev/null -d "$kernel" -S "$release" --show-depends "$module"
	done | awk '$1 == "insmod" { print $2 }' | sort -u | while read -r file; do
		to=$root/lib/modules/$release/${file#"$kernel/lib/modules/$release/"}
		case $file in
		*.xz) mkdir -p "$(dirname "$to")" && xz -dc "$file" >"${to%.xz}" ;;
		*) install -D -m 644 "$file" "$to" ;;
		esac
	done
	cp "$kernel/lib/modules/$release"/modules.{order,builtin} "$root/lib/modules/$release/"
	cp "$kernel/lib/modules/$release"/modules.builtin.modinfo "$root/lib/modules/$release/"
	depmod -b "$root" "$release"
}

# add_program ROOT FILE TO: a file, and if it is a program its shared libraries,
# each under the path it is looked for.
add_program() {
	local lib
	install -D "$2" "$1/$3"
	ldd "$2" >/dev/null 2>&1 || return 0
	ldd "$2" | sed -n 's|^[^/]*\(/[^ ]*\) (0x.*|\1|p' | while read -r lib; do
		[ -e "$1/$lib" ] || install -D "$lib" "$1/$lib"
	done
}

# pack ROOT OUT
pack() {
	(cd "$1" && find . -mindepth 1 -printf '%P\n' | sort | cpio -o -H newc -R 0:0 --quiet) >"$2"
}

build_l2() {
	local series=$1 out=$2 guest=$top_dir/build/guest root=$work/l2
	[ "${3:-}" != --guest ] || guest=$4
	add_busybox "$root"
	add_modules "$root" "$(kernel_dir "$series")" "${l2_modules[@]}"
	install "$(guest_program counter "$guest")" "$root/bin/counter"
	install "$(guest_program devtest "$guest")" "$root/bin/devtest"
	install "$rig_dir/l2-init" "$root/init"
	# What busybox's acpid runs on the power button, and where it logs.
	install -D "$rig_dir/l2-button" "$root/etc/acpi/PWRF/00000080"
	mkdir -p "$root/var/log" "$root/var/run"
	pack "$root" "$out"
}

build_l1() {
	local series=$1 out=$2 root=$work/l1 bin='' file
	shift 2
	add_busybox "$root"
	while [ $# -gt 0 ]; do
		case $1 in
		--bin) bin=$2 ;;
		--l2-kernel) install -D -m 644 "$2" "$root/boot/bzImage" ;;
		--l2-initrd) install -D -m 644 "$2" "$root/boot/initrd" ;;
		*) break ;;
		esac
		shift 2
	done
	add_modules "$root" "$(kernel_dir "$series")" "${l1_modules[@]}"
	install "$rig_dir/l1-init" "$root/init"
	install -D -m 644 "$rig_dir/lib.sh" "$root/rig/lib.sh"
	install -m 755 "$(guest_program ctl "$bin/../guest")" "$root/usr/bin/ctl"
	install -m 755 "$(guest_program echo "$bin/../guest")" "$root/usr/bin/echo-back"
	install -m 755 "$(guest_program devtest "$bin/../guest")" "$root/usr/bin/devtest"
	for file in vmm snapfs snapctl; do
		# A script may be about the rig alone: what is missing is for it to miss.
		[ ! -e "$bin/$file" ] || add_program "$root" "$bin/$file" "usr/bin/$file"
	done
	for file in fusermount3 sha256sum fsverity; do
		file=$(command -v "$file") || continue
		add_program "$root" "$file" "usr/bin/$(basename "$file")"
	done
	# busybox's own does not know an option that fusermount3 of libfuse 3.17 gives it.
	rm -f "$root/bin/umount"
	add_program "$root" "$(command -v umount)" bin/umount
	# Loaded by the C library by name when a thread ends; ldd does not see it.
	file=/lib/x86_64-linux-gnu/libgcc_s.so.1
	[ ! -e "$file" ] || install -D -m 644 "$file" "$root$file"
	add_program "$root" "$1" rig/script
	shift
	for file; do
		add_program "$root" "$file" "rig/$(basename "$file")"
	done
	printf 'root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n' >"$root/etc/passwd"
	printf 'root:x:0:\nuser:x:1000:\n' >"$root/etc/group"
	pack "$root" "$out"
}

[ $# -ge 3 ] || die "usage: initramfs.sh l1|l2 SERIES OUT ..."
need busybox busybox-static cpio cpio depmod kmod modprobe kmod xz xz-utils ldd libc-bin
! ldd "$(command -v busybox)" >/dev/null 2>&1 || skip "missing packages: busybox-static"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
case $1 in
l1) build_l1 "${@:2}" ;;
l2) build_l2 "${@:2}" ;;
*) die "usage: initramfs.sh l1|l2 SERIES OUT ..." ;;
esac
