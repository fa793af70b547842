#!/usr/bin/env bash
# Unpacks the ELF kernel that a bzImage carries within itself.
#
#     vmlinux.sh BZIMAGE OUT
#
# Source: Documentation/arch/x86/boot.rst, setup_sects, payload_offset and
# payload_length.
set -euo pipefail
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"

# number OFFSET SIZE: out of the header.
number() { od -A n -t "u$2" -j "$1" -N "$2" "$bzimage" | tr -d ' '; }

[ $# -eq 2 ] || die "usage: vmlinux.sh BZIMAGE OUT"
bzimage=$1
at=$((($(number $((0x1f1)) 1) + 1) * 512 + $(number $((0x248)) 4)))
# Its last four bytes are the unpacked size, and no part of what was packed.
size=$(($(number $((0x24c)) 4) - 4))

payload() { dd if="$bzimage" iflag=skip_bytes,count_bytes bs=64K skip=$at count=$size status=none; }

case $(od -A n -t x1 -j $at -N 4 "$bzimage" | tr -d ' ') in
fd377a58) need xz xz-utils && payload | xz -dc >"$2" ;;
28b52ffd) need zstd zstd && payload | zstd -dcq >"$2" ;;
02214c18) need lz4 lz4 && payload | lz4 -dcq >"$2" ;;
*) die "$bzimage: its kernel is packed in another way" ;;
esac
