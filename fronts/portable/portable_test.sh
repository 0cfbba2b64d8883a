#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# usage: portable_test.sh FLAVOUR LIBRARY PROGRAM LINKED STATIC
# Runs the program's cases with the flavour preloaded, linked in, and in a static program.
flavour=$1 library=$2 program=$3 linked=$4 static=$5
cases="sizes alignments errors mixed services threads small_stacks handed_over many_threads forks misuse statistics"
failed=0

expect_ok() { # what, command...
    what=$1
    shift
    said=$("$@" 2>&1)
    status=$?
    if [ "$status $said" != "0 ok" ]; then
        echo "$what: status $status: $said"
        failed=1
    fi
}

# What is here found with the library has to be missed without it.
said=$("./$program" "$flavour" sizes 2>&1) && { echo "served without the library: $said"; failed=1; }

expect_ok preloaded env LD_PRELOAD="./$library" "./$program" "$flavour" $cases looked_up
expect_ok "preloaded, giving back" env LD_PRELOAD="./$library" HAKMEM_DECAY_MS=0 "./$program" "$flavour" $cases
expect_ok "preloaded, in the background" \
    env LD_PRELOAD="./$library" HAKMEM_DECAY_MS=1 HAKMEM_BACKGROUND=1 "./$program" "$flavour" mixed threads forks
expect_ok linked "./$linked" "$flavour" $cases looked_up
expect_ok static "./$static" "$flavour" $cases
exit $failed
