#!/bin/sh
# Seals, on a file system that has fs-verity: what is saved is sealed in the
# background, the kernel's digest is the manifest's, the mount passes a sealed file
# through, nobody can write one, and what is wrong on the disk is never read.
#
#     run.sh sealed.sh
# shellcheck source=lib.sh source-path=SCRIPTDIR
. /rig/lib.sh

mnt=/tmp/mnt
mkdir -p $mnt
snaps=$store/snapshots

# of SNAPSHOT FILE: what the mount says of a file of it.
of() { sed -n "s/^$2: *//p" "$mnt/$1/status"; }
is_sealed() { of "$1" memory | grep -q '^sealed'; }
# shellcheck disable=SC2317 # called by check
refused() { ! "$@" 2>/dev/null; }
measure() { fsverity measure "$1" | sed 's/^sha256:\([0-9a-f]*\) .*/\1/'; }
# manifest SNAPSHOT MEMBER
manifest() { sed -n "s/.*\"$2\": *\"\([0-9a-f]*\)\".*/\1/p" "$mnt/$1/manifest.json" | head -n 1; }

# shellcheck disable=SC2086 # $linux: options, not one word
vm_start a $linux --cmdline "$cmdline" --memory 128M || give_up "vmm starts a guest"
await "$long" vm_ticked a 3 || give_up "the guest starts and counts"
check "it is saved" vm_say a save-snapshot base
check "snapfs mounts the store" snapfs --store "$store" $mnt
check "its RAM is sealed before long" await "$long" is_sealed base
check "the kernel measures the manifest's digest" same \
	"$(measure "$snaps/base/memory.bin")" "$(manifest base memory_digest)"
check "the machine goes on" await "$long" vm_ticked a $(($(vm_last_tick a) + 3))
check "it quits" vm_quit a

chmod u+w "$snaps/base/memory.bin"
check "not even root writes it" refused dd if=/dev/zero of="$snaps/base/memory.bin" bs=1 count=1 conv=notrunc
check "nor cuts it" refused truncate -s 0 "$snaps/base/memory.bin"
chmod 400 "$snaps/base/memory.bin"

check "the mount passes it through" sh -c "snapctl --store $store status | grep '^ *reads *passthrough'"
check "its bytes are the file's" cmp "$mnt/base/memory.bin" "$snaps/base/memory.bin"

# No stamp is needed for any of this.
rm -f "$store"/stamps.db*
check "it is sealed without a stamp" is_sealed base
vm_start b --restore-snapshot "$snaps/base" --store "$store" || give_up "vmm restores it from the store"
check "it goes on from there" await "$long" vm_ticked_times b 3
check "in order" vm_in_order b
check "it is not hashed for that" sh -c "! grep -i 'verif' $vms/b.err"
check "it quits" vm_quit b
vm_start c --restore-snapshot $mnt/base --store "$store" || give_up "vmm restores it from the mount"
check "it goes on from the mount" await "$long" vm_ticked_times c 3
kill -9 "$(pidof snapfs)"
check "and when snapfs is killed" await "$long" vm_ticked c $(($(vm_last_tick c) + 3))
check "in order" vm_in_order c
check "it quits" vm_quit c
umount -l $mnt

# What somebody seals who puts other bytes in its place is damage, at once.
cp "$snaps/base/memory.bin" /store/other
printf x | dd of=/store/other bs=1 seek=70000 conv=notrunc 2>/dev/null
chmod 400 /store/other
fsverity enable /store/other
mv -f /store/other "$snaps/base/memory.bin"
check "snapfs mounts the store again" snapfs --store "$store" $mnt
check "a seal of other bytes is damage" sh -c "grep '^memory: *damaged' $mnt/base/status"
check "which nobody reads" refused cat $mnt/base/memory.bin
check "vmm does not start from it, either" refused vmm --restore-snapshot "$snaps/base" --store "$store" --paused
umount $mnt

finish
