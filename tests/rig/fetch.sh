#!/usr/bin/env bash
# Gets Debian's cloud kernels for the rig and prints where each one lies.
#
#     fetch.sh [--update] [6.1] [6.12]
#
# A kernel is unpacked (not installed) into the cache, by version; with a warm
# cache no network is used, --update looks for a newer version. The user's apt
# settings say where to fetch from and are read only: package lists, status and
# sources used here are this script's own, so no root is needed either.
#
# A kernel's folder holds vmlinuz, config, release (the kernel's own version
# string) and lib/modules/RELEASE with depmod's index.
set -euo pipefail
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"

meta=linux-image-cloud-amd64

# debian_codename: of this machine; empty elsewhere than on Debian.
debian_codename() {
	# shellcheck disable=SC1091 # the machine's own file
	(. /etc/os-release && [ "${ID:-}" = debian ] && echo "${VERSION_CODENAME:-}") || true
}

# mirrors: the archives this machine's apt takes its release from, one a line.
# --print-uris works on a machine that has never run an update. Other vendors
# use Debian's codenames too, so every answer is a candidate and no more.
mirrors() {
	local code
	code=$(debian_codename)
	if [ -n "$code" ]; then
		apt-get -o Dir::State::Lists="$work/probe" -o Dir::Cache="$work/probe" \
			--print-uris update 2>/dev/null |
			sed -n "s|^'\(.*\)/dists/$code/main/binary-amd64/.*|\1|p" | sort -u
	fi
}

# suites SERIES: where Debian keeps that series, the likeliest first.
suites() {
	case $1 in
	6.1) echo bookworm ;;
	6.12)
		if [ "$(debian_codename)" = bookworm ]; then
			echo bookworm-backports trixie
		else
			echo trixie bookworm-backports
		fi
		;;
	esac
}

# private_apt COMMAND...: apt on this script's own lists, sources and status.
# An empty status hides kernels that are installed; the user's pins are left
# out; proxies and credentials of the user's apt.conf stay in force.
private_apt() {
	local as_root=()
	# The cache may lie in a home that apt's own download user cannot enter.
	[ "$(id -u)" -ne 0 ] || as_root=(-o APT::Sandbox::User=root)
	"$1" "${as_root[@]}" \
		-o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
		-o Dir::State::Lists="$work/lists" -o Dir::State::status="$work/status" \
		-o Dir::Cache="$work/cache" -o APT::Architecture=amd64 -o APT::Architectures=amd64 \
		-o Acquire::Check-Valid-Until=false -o Acquire::Retries=3 -o APT::Get::List-Cleanup=0 \
		"${@:2}"
}

# use_source MIRROR SUITE: make the private lists those of one suite.
use_source() {
	local keys='' ring
	for ring in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
		[ ! -e "$ring" ] || { keys="[signed-by=$ring] " && break; }
	done
	rm -rf "$work/lists" "$work/cache"
	mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
	: >"$work/status"
	echo "deb $keys$1 $2 main" >"$work/sources.list"
	private_apt apt-get -qq update >"$work/log" 2>&1
}

# image_of SERIES: name and version of the newest real image of that series in
# the lists; the meta package only depends on it.
image_of() {
	private_apt apt-cache show --no-all-versions "$meta" 2>/dev/null |
		sed -n 's/^Depends:.*\(linux-image-[^ ,]*-cloud-amd64\) (= \([^)]*\)).*/\1 \2/p' |
		grep -m 1 -F "linux-image-$1." || true
}

# unpack DEB FOLDER: what the rig uses of an image, under names without a
# version; /lib and /usr/lib are the same place in both releases' eyes. Each step
# is chained: errexit is off where the caller asks how it went.
unpack() {
	local raw=$work/raw release modules
	rm -rf "$raw" && mkdir "$raw" && dpkg -x "$1" "$raw" || return 1
	release=$(basename "$raw"/boot/vmlinuz-*)
	release=${release#vmlinuz-}
	modules=$raw/lib/modules
	[ -d "$modules" ] || modules=$raw/usr/lib/modules
	mkdir -p "$2/lib" && mv "$raw/boot/vmlinuz-$release" "$2/vmlinuz" &&
		mv "$raw/boot/config-$release" "$2/config" && mv "$modules" "$2/lib/" &&
		depmod -b "$2" "$release" && echo "$release" >"$2/release"
}

# fetch_from SERIES MIRROR SUITE: fetch and unpack; fails if it is not there.
fetch_from() {
	local image version folder deb
	use_source "$2" "$3" || return 1
	read -r image version < <(image_of "$1") || return 1
	folder=$cache/kernel-$version
	if [ ! -e "$folder/release" ]; then
		say "fetching Linux $version"
		(cd "$work" && private_apt apt-get -qq download "$image=$version") >"$work/log" 2>&1 || return 1
		deb=$(echo "$work"/linux-image-*.deb)
		unpack "$deb" "$work/new" || return 1
		# In one step: a folder that is there is complete.
		rm -rf "$folder" && mv "$work/new" "$folder" || return 1
		rm -f "$deb"
	fi
	ln -sfn "$(basename "$folder")" "$cache/$1"
}

# fetch SERIES: from the first archive and suite that have it.
fetch() {
	local mirror suite list
	need apt-get apt dpkg dpkg depmod kmod
	mapfile -t list < <(mirrors)
	[ ${#list[@]} -gt 0 ] || list=(http://deb.debian.org/debian)
	for suite in $(suites "$1"); do
		for mirror in "${list[@]}"; do
			if fetch_from "$1" "$mirror" "$suite"; then return; fi
		done
	done
	[ ! -s "$work/log" ] || tail -n 3 "$work/log" >&2
	[ -e "$cache/$1/release" ] || skip "no Linux $1 in the cache, and none could be fetched"
	say "no newer Linux $1 could be looked for; the cached one is used"
}

update=false wanted=()
for arg; do
	case $arg in
	--update) update=true ;;
	*) known_kernel "$arg" && wanted+=("$arg") ;;
	esac
done
[ ${#wanted[@]} -gt 0 ] || wanted=(6.1 6.12)

for series in "${wanted[@]}"; do
	if $update || [ ! -e "$cache/$series/release" ]; then
		mkdir -p "$cache"
		# One fetcher at a time; who waited finds the cache warm.
		exec 9>"$cache/lock"
		flock 9
		if $update || [ ! -e "$cache/$series/release" ]; then
			work=$(mktemp -d "$cache/fetch.XXXXXX")
			trap 'rm -rf "$work"' EXIT
			mkdir -p "$work/probe/partial"
			fetch "$series"
			rm -rf "$work"
		fi
		exec 9>&-
	fi
	(cd "$cache/$series" && pwd -P)
done
