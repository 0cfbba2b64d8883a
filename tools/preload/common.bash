# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the tools that run other people's programs on a preloaded allocator share.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# The tool's own name before each line; stdout is for its results.
say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
    say "$@"
    exit 2
}

# Installs with apt-get what is missing among PACKAGE:FILE... (a package counts as installed where the file exists),
# or says what a person has to run and exits.
install_missing() {
    local entry missing=() as_root=() options=(-y --no-install-recommends -o DPkg::Lock::Timeout=300)
    for entry; do
        # Two programs may need the same package.
        [[ -e ${entry#*:} || " ${missing[*]} " == *" ${entry%%:*} "* ]] || missing+=("${entry%%:*}")
    done
    ((${#missing[@]} > 0)) || return 0
    if ! command -v apt-get >/dev/null || { ((EUID != 0)) && ! sudo -n true 2>/dev/null; }; then
        say "missing: ${missing[*]}. Run:"
        say "    sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}"
        exit 2
    fi
    ((EUID == 0)) || as_root=(sudo -n)
    say "installing with apt-get: ${missing[*]}"
    {
        "${as_root[@]}" apt-get update -q &&
            "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q "${options[@]}" "${missing[@]}"
    } </dev/null >&2 || die "apt-get failed"
    for entry; do
        [[ -e ${entry#*:} ]] || die "still missing after the installation: ${entry%%:*} (${entry#*:})"
    done
}

# Builds flavour NAME and prints the path of its .so.
build_flavour() {
    (cd "$repository" && ./bazelw build "//:$1" >&2 && ./bazelw info bazel-bin 2>/dev/null) |
        { read -r bin && printf '%s/lib%s.so\n' "$bin" "$1"; } || die "flavour $1 does not build"
}

# Builds the compat libraries of flavour NAME and prints the path of their folder.
build_compat() {
    (cd "$repository" && ./bazelw build "//:$1_compat" >&2 && ./bazelw info bazel-bin 2>/dev/null) |
        { read -r bin && printf '%s/compat%s\n' "$bin" "$([[ $1 == hakmem_c23 ]] || echo "/$1")"; } ||
        die "the compat libraries of $1 do not build"
}

# An absolute path in COPY's folder of the shared libraries in the folder at PATH.
copy_compat() {
    [[ -f $1/libjemalloc.so.2 ]] || die "no compat libraries: $1"
    mkdir "$2/compat" && cp -L -- "$1"/lib*.so.[0-9] "$2/compat/" || exit 2
    printf '%s/compat\n' "$2"
}

# An absolute path in COPY's folder of the shared object at PATH: a build that runs meanwhile may replace the original.
copy_so() {
    [[ -f $1 ]] || die "no such shared object: $1"
    cp -L -- "$1" "$2/" || exit 2
    printf '%s/%s\n' "$2" "${1##*/}"
}
