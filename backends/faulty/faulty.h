// SPDX-License-Identifier: Apache-2.0
// faulty: the Linux backend, with calls that fail on a script. For tests.
//
// Each call of backends/os.h that can fail is a kind. Calls of the kinds that the script names are
// numbered from 1 on, all kinds together, in the order in which they are made. The script says
// which numbers fail. A failed call does the worst that the contract in os.h allows: it changes
// nothing, or spoils the contents if the contract leaves them undefined. Every second refresh or
// decommit that fails leaves the range unmapped (OS_LOST).
//
// A program that links the backend sets the script by the functions below. For any other program
// two environment variables set it, which are read at the first call. HAK_FAULTY is a script:
//
//     KIND[,KIND]...:FIRST[-[LAST]][:taken]     the calls FIRST to LAST fail; "5-": all from 5 on
//     KIND[,KIND]...:random=PPM,SEED[:taken]    PPM of a million fail
//
// KIND is the name of a call without "os_", or "all". "taken": calls that can fail with OS_TAKEN
// do, the others do not fail. Text that is no script ends the program.
//
// HAK_FAULTY_CLOCK=US makes time depend on the program alone: both clocks start at one second, and
// every look at one of them takes US microseconds. So a program of one thread makes the same calls
// in every run.
//
// Thread-safe, async-signal-safe; allocates nothing.
#ifndef HAKMEM_BACKENDS_FAULTY_FAULTY_H
#define HAKMEM_BACKENDS_FAULTY_FAULTY_H

#include "boxes/base/base.h"

HAK_C_BEGIN

enum faulty_kind {
    FAULTY_RESERVE,
    FAULTY_MAP,
    FAULTY_WOULD_GRANT,
    FAULTY_COMMIT,
    FAULTY_DECOMMIT,
    FAULTY_PURGE,
    FAULTY_REFRESH,
    FAULTY_MOVE,
    FAULTY_RELEASE,         // the range stays mapped
    FAULTY_HUGE_PAGES,      // nothing happens
    FAULTY_ADDRESS_LIMIT,   // says that there is none
    FAULTY_DATA_LIMIT,      // says that there is none
    FAULTY_PHYSICAL_MEMORY, // 0 bytes
    FAULTY_READ_FILE,       // 0 bytes
    FAULTY_FORBID,
    FAULTY_HIDE,
    FAULTY_KINDS,
};

enum { FAULTY_ALL = (1 << FAULTY_KINDS) - 1 };

// If all fields are zero, no call fails.
struct faulty_script {
    uint32_t kinds;       // 1 << kind for each kind that is numbered
    bool taken;           // fail with OS_TAKEN instead of OS_NO_MEMORY
    uint64_t first, last; // numbers that fail, both included; first 0: none of them
    uint32_t ppm;         // chance of each other number to fail, in a million
    uint64_t seed;        // decides which of them fail
};

// Puts a script in force; numbers start at 1 again. Not to be called while other threads make
// calls.
void faulty_set(const struct faulty_script *script);

// As faulty_set(), with a script in the form of HAK_FAULTY. Returns false, and changes nothing, if
// `text` is no script.
bool faulty_parse(const char *text, struct faulty_script *script);

// Returns the number of calls that were numbered so far, under the script in force.
uint64_t faulty_calls(void);

// Returns the number of calls of a kind so far, whatever the script.
uint64_t faulty_calls_of(enum faulty_kind kind);

// Return the number of calls that failed on a script: calls of all threads, and of the calling
// thread.
uint64_t faulty_failures(void);
uint64_t faulty_failures_here(void);

// Returns the name of a kind in HAK_FAULTY.
const char *faulty_name(enum faulty_kind kind);
HAK_C_END

#endif
