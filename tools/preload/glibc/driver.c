// SPDX-License-Identifier: Apache-2.0
// What a test includes at its end: main(), around the test's do_test() and the macros it set.
#include "shim.h"

static int driver_function(int argc, char **argv) {
    (void)argc;
    (void)argv;
#if defined TEST_FUNCTION_ARGV
    return TEST_FUNCTION_ARGV(argc, argv);
#elif defined TEST_FUNCTION && defined SUPPORT_LEGACY_SKELETON
    return TEST_FUNCTION; // there, an expression
#elif defined TEST_FUNCTION
    return TEST_FUNCTION();
#elif defined SUPPORT_LEGACY_SKELETON
    return do_test(argc, argv);
#else
    return do_test();
#endif
}

#ifndef TIMEOUT
#    define TIMEOUT DEFAULT_TIMEOUT
#endif
#ifndef EXPECTED_STATUS
#    define EXPECTED_STATUS 0
#endif
#ifndef EXPECTED_SIGNAL
#    define EXPECTED_SIGNAL 0
#endif

int main(int argc, char **argv) {
    const char *factor = getenv("TIMEOUTFACTOR");
    return support_main(driver_function, argc, argv, TIMEOUT * (factor == NULL ? 1 : atoi(factor)),
                        EXPECTED_STATUS, EXPECTED_SIGNAL);
}
