#!/usr/bin/env bash
# Style and static checks over the tracked files: clang-format, clang-tidy,
# cppcheck, shellcheck, and the rules of this house. Prints each finding; exit 1
# if there is any. Needs the configured build folder (./dev build), for how each
# file is compiled; another one may be given as $1.
set -uo pipefail
cd "$(dirname "$(readlink -f "$0")")/.." || exit 3
build=${1:-build}
findings=$(mktemp)
trap 'rm -f "$findings"' EXIT

[ -s "$build/compile_commands.json" ] || {
	echo "lint: there is no $build/compile_commands.json: run ./dev build first" >&2
	exit 3
}

# Tracked and still there: a file that is being removed is nobody's finding.
tracked() {
	local f
	git ls-files "$@" | while read -r f; do [ -f "$f" ] && echo "$f"; done
}

# Tells what a tool found, under the tool's name.
report() {
	local name=$1 seconds=$2
	if [ -s "$findings.one" ]; then
		sed "s|$PWD/||g; s|^|$name: |" "$findings.one" | tee -a "$findings"
	fi
	rm -f "$findings.one"
	echo "lint: $name took $seconds s" >&2
}

check() {
	local name=$1 start=$SECONDS
	"check_${name//-/_}" >"$findings.one" 2>&1
	report "$name" $((SECONDS - start))
}

# ---- the tools ----

check_clang_format() {
	tracked '*.c' '*.h' | xargs clang-format --dry-run -Werror 2>&1 | grep -E ': (error|warning):'
}

# The C files that this build compiles. The analyzer does not model the cleanup
# attribute, so its malloc checks are off; LeakSanitizer does that work.
tidy_checks='-*,bugprone-*,performance-*,clang-analyzer-*'
tidy_checks+=',-bugprone-easily-swappable-parameters' # (buf, len, offset, size) is C's way
tidy_checks+=',-bugprone-reserved-identifier'	      # _GNU_SOURCE
tidy_checks+=',-bugprone-narrowing-conversions'	      # the compiler's -Wconversion says it better
tidy_checks+=',-bugprone-assignment-in-if-condition'
tidy_checks+=',-bugprone-implicit-widening-of-multiplication-result'
tidy_checks+=',-bugprone-branch-clone'	      # two keys may do the same
tidy_checks+=',-bugprone-sizeof-expression'	      # flags calloc(n, sizeof(*array_of_pointers))
tidy_checks+=',-bugprone-not-null-terminated-result'  # magic numbers are no strings
tidy_checks+=',-performance-no-int-to-ptr'	      # ioctl arguments, and const taken off by hand
tidy_checks+=',-clang-analyzer-optin.performance.Padding'
tidy_checks+=',-clang-analyzer-unix.Malloc,-clang-analyzer-unix.MismatchedDeallocator'
tidy_checks+=',-clang-analyzer-security.insecureAPI.*' # memcpy and snprintf with a size are bounded
tidy_checks+=',-clang-analyzer-valist.*'	       # false in macros that start and end one

# It does not know that an assertion of cmocka's ends the test, nor what a fixture holds.
tidy_one() {
	local checks=$2
	[[ $3 != tests/unit/* ]] ||
		checks+=',-clang-analyzer-core.NullDereference,-clang-analyzer-core.NonNullParamChecker'
	clang-tidy --quiet -p "$1" --checks="$checks" "$3" 2>/dev/null | grep -E ': (error|warning):'
}
export -f tidy_one

check_clang_tidy() {
	local compiled
	compiled=$(grep -o '"file": "[^"]*"' "$build/compile_commands.json" | cut -d'"' -f4)
	tracked '*.c' | while read -r f; do
		grep -qxF "$PWD/$f" <<<"$compiled" && echo "$f"
	done | xargs -P "$(nproc)" -I{} bash -c 'tidy_one "$@"' _ "$build" "$tidy_checks" {} |
		sort -u
}

# It does not know the cleanup attribute, nor that the ends of an object may be two symbols.
check_cppcheck() {
	tracked '*.c' >"$findings.files"
	cppcheck --quiet -j "$(nproc)" --std=c11 --language=c --force --max-configs=4 \
		--enable=warning,performance,portability --inline-suppr \
		--suppress=missingIncludeSystem --suppress=unmatchedSuppression \
		--suppress=memleak --suppress=comparePointers \
		'-Djson_object_foreach(o, k, v)=while (json_next(o, &k, &v))' \
		'-Djson_array_foreach(a, i, v)=while (json_at(a, &i, &v))' \
		'-DTAILQ_FOREACH(v, h, f)=while ((v = next(h)))' \
		'-DLIST_FOREACH(v, h, f)=while ((v = next(h)))' \
		-I"$build/include/base" -I"$build/include/proto" -I"$build/include/catalog" \
		-I"$build/include/snapfs" -I"$build/include/vmm" \
		--template='{file}:{line}: {severity}: {message} [{id}]' \
		--file-list="$findings.files" 2>&1 | sort -u
	rm -f "$findings.files"
}

scripts() {
	tracked | while read -r f; do
		head -c 64 "$f" | head -n 1 | grep -aqE '^#!.*\b(ba)?sh\b' && echo "$f"
	done
	tracked '*.sh'
}

# SC2010: what `ls` shows is what many tests are about.
check_shellcheck() {
	scripts | sort -u | xargs shellcheck --external-sources --source-path=SCRIPTDIR \
		--severity=warning --exclude=SC2010 --format=gcc
}

# ---- rules of this house ----

# The tests of one device are one file.
check_length() {
	tracked '*.c' '*.h' | xargs wc -l | awk '
		{ most = $2 ~ "^tests/unit/" ? 1400 : 700 }
		$2 != "total" && $1 > most { print $2 ": " $1 " lines, " most " are the most" }'
}

# Unfinished work is finished or not there; the words are split so as not to find themselves.
check_leftovers() {
	tracked | grep -vxF tests/lint.sh | xargs grep -InE '\b(TO''DO|FIX''ME|X''XX)\b'
}

# Between components headers are found as "component/header.h".
check_includes() {
	tracked '*.c' '*.h' | xargs grep -nE '#[[:space:]]*include[[:space:]]*"\.\./'
}

# Nothing may depend on where the tree lies.
check_paths() {
	tracked | grep -vE '\.(bin|png)$' | xargs grep -InF -- "$PWD/"
	tracked | xargs grep -InE '(/home/[a-z]+/|/root/|/work/)' | grep -v '^tests/lint\.sh:'
}

for name in clang-format length leftovers includes paths shellcheck cppcheck clang-tidy; do
	check "$name"
done

printf 'lint: %d C files, %d scripts, %d tracked files: clang-format, clang-tidy, cppcheck, shellcheck, house rules: ' \
	"$(tracked '*.c' '*.h' | wc -l)" "$(scripts | sort -u | wc -l)" "$(tracked | wc -l)"
if [ -s "$findings" ]; then
	echo "$(wc -l <"$findings") findings"
	exit 1
fi
echo 'no findings'
