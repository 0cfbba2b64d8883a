#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# <hakmem/hakmem.h> alone compiles without a warning by every standard of C and C++ from C99 and C++11 on that the
# machine's compilers know, twice in one source, and includes nothing but headers of the system.
set -euo pipefail

strict=(-pedantic-errors -Wall -Wextra -Wconversion -Wshadow -Wundef -Wredundant-decls -Werror)
work=${TEST_TMPDIR:-$(mktemp -d)}
compiled=0

# compile COMPILER LANGUAGE STANDARD [OPTION...]
compile() {
    local compiler=$1 language=$2 standard=$3
    shift 3
    if ! "$compiler" -x "$language" "-std=$standard" -fsyntax-only /dev/null 2>/dev/null; then
        echo "$compiler does not know $standard"
        return
    fi
    "$compiler" -x "$language" "-std=$standard" "${strict[@]}" "$@" -I include -c "$work/source" -o /dev/null
    compiled=$((compiled + 1))
}

{
    echo '#include <hakmem/hakmem.h>'
    echo '#include "hakmem/hakmem.h"'
    echo 'int used(void);'
    echo 'int used(void) { struct hak_stats s; hak_stats(&s); return hak_version() == hak_flavour(); }'
} >"$work/source"

for compiler in gcc clang; do
    command -v "$compiler" >/dev/null || continue
    for standard in c99 gnu99 c11 c17 gnu17 c2x; do
        compile "$compiler" c "$standard" -Wstrict-prototypes -Wmissing-prototypes
    done
done
for compiler in g++ clang++; do
    command -v "$compiler" >/dev/null || continue
    for standard in c++11 c++14 gnu++17 c++20 c++23; do
        compile "$compiler" c++ "$standard" -Wold-style-cast -Wnon-virtual-dtor
    done
done
if ((compiled < 8)); then
    echo "only $compiled compilations"
    exit 1
fi

others=$(gcc -M -x c -std=c99 -I include "$work/source" | tr -s ' \\' '\n' | grep / | grep -v '^/usr/' || true)
if [[ $(sort -u <<<"$others") != $(printf '%s\n' "$work/source" include/hakmem/hakmem.h | sort) ]]; then
    printf 'includes more than headers of the system:\n%s\n' "$others"
    exit 1
fi
