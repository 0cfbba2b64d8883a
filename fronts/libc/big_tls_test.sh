#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# usage: big_tls_test.sh LIBRARY PROGRAM...
# HAKMEM_BACKGROUND=1 starts its thread however much thread-local data a program has.
set -u
library=$1
shift
failed=0

expect() { # what, expected, got
    [ "$2" = "$3" ] && return
    echo "$1: expected <$2>, got <$3>"
    failed=1
}

for program in "$@"; do
    said=$(env LD_PRELOAD="./$library" HAKMEM_BACKGROUND=1 HAKMEM_DECAY_MS=50 "$program" 2>&1)
    expect "$program" "threads: 2, idle: 0" "$said"
done

exit $failed
