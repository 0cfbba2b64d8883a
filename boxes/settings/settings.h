// SPDX-License-Identifier: Apache-2.0
// settings: the HAKMEM_* environment variables, read once.
//
// Each setting is one row of the table in settings.c with its name, unit, range, default and
// meaning. Before settings_load() every setting has its default. An empty value also means the
// default, because scripts clear a variable that way. Any other value that is not a number of the
// range gets one warning line on stderr and the default; so does a HAKMEM_ name without a row get a
// warning line. HAKMEM_STATS also takes "text", "json" and the name of a file, which has a '/' or a
// '.' in it. Set-user-ID programs ignore all settings.
#ifndef HAKMEM_BOXES_SETTINGS_SETTINGS_H
#define HAKMEM_BOXES_SETTINGS_SETTINGS_H

#include "boxes/base/atomic.h"
#include "boxes/base/base.h"
#include "boxes/base/layout.h"

HAK_C_BEGIN

enum setting {
    SETTING_STATS,           // statistics at exit; see settings_get_stats()
    SETTING_DECAY_MS,        // age at which free dirty pages go back
    SETTING_C23_SIMPLE,      // the front of C2/C3
    SETTING_C23_REFILL,      // blocks per refill of the C23 front, 0: by demand
    SETTING_THP,             // huge pages
    SETTING_BACKGROUND,      // a thread gives idle memory back
    SETTING_LIMIT,           // most memory to hold, bytes
    SETTING_DEEPBIND,        // opened libraries get this malloc in place of libc's
    SETTING_SANDBOX,         // which system calls may be made
    SETTING_CHECK_FREES,     // when free looks at the block
    SETTING_PROFILE_RATE,    // bytes from sample to sample, on average
    SETTING_PROFILE_SIGNAL,  // number of a signal at which a profile is written, 0: none
    SETTING_PROFILE_EVERY,   // bytes allocated from profile to profile, 0: none
    SETTING_GUARD,           // one allocation in so many gets a guarded block, 0: none
    SETTING_LEAKS,           // lost blocks are reported at exit
    SETTING_PROFILE_SECONDS, // seconds from profile to profile, 0: none
#if HAK_HARDENED
    SETTING_CANARY,       // writes past the end of blocks are looked for
    SETTING_CHECK_SIZES,  // sizes given to free and delete are compared
    SETTING_ZERO,         // freed blocks are made zero, and must be zero when they are handed out
    SETTING_ZERO_MOST,    // larger freed blocks are made zero at both ends only
    SETTING_QUARANTINE,   // bytes of freed blocks that wait in each bin and thread
    SETTING_PROTECT,      // freed blocks of so many bytes have no access rights while they wait
    SETTING_PROTECT_KEEP, // bytes of such blocks that keep their pages
    SETTING_GUARD_PAGES,  // the most slabs, and the most large blocks, with guard pages
    SETTING_GUARD_LARGE,  // large blocks of so many bytes have guard pages
    SETTING_RANDOM,       // blocks are chosen at random among so many
    SETTING_SEPARATE,     // slabs serve one bin for good
#endif
    SETTING_COUNT,
};

// Settings that are texts.
enum setting_text {
    SETTING_TEXT_PROFILE, // the file to which profiles are written
    SETTING_TEXT_RECORD,  // the file in which calls are recorded
    SETTING_TEXTS,
};

struct setting_row {
    const char *name;
    const char *unit;
    int64_t least, most, preset;
    const char *what;
};

extern const struct setting_row settings_table[SETTING_COUNT];

struct setting_text_row {
    const char *name;
    const char *what;
};

extern const struct setting_text_row settings_text_table[SETTING_TEXTS];

// Reads the environment (NULL-terminated, as environ). Called once, from the library's constructor.
// Another library's constructor may have started threads before, which see the default or the new
// value.
void settings_load(char *const *environment);

// As settings_load(), at the first call only: for functions that other libraries' constructors may
// call before ours. A thread that calls at the same time may still see the defaults.
void settings_load_once(char *const *environment);

// Parses one value into *out. Returns false, and leaves *out, unless the value is a decimal integer
// (with an optional sign) within the row's range and nothing else. A setting in bytes takes K, M, G
// or T behind the number, or % of settings_memory().
bool settings_parse(const struct setting_row *row, const char *text, int64_t *out);

// Returns the bytes of memory that this process may use: the machine's, or its cgroup's (v1 or v2)
// if that is less.
size_t settings_memory(void);

// Changes the value of a setting that is read each time it matters: SETTING_DECAY_MS. Returns
// false, and changes nothing, if the value is out of the row's range. Thread-safe.
bool settings_set(enum setting setting, int64_t value);

// Returns the text in force, "" if none is set. Thread-safe; later changes of the environment have
// no effect.
const char *settings_text(enum setting_text text);

// The destination and the form of statistics, if HAKMEM_STATS is not 0.
struct settings_stats {
    const char *file; // as it was given; NULL: stderr
    bool json;        // or a table
};
struct settings_stats settings_get_stats(void);

// Returns the value in force. Thread-safe.
HAK_INLINE int64_t settings_get(enum setting setting) {
    extern int64_t settings_values[SETTING_COUNT];
    return HAK_PEEK(&settings_values[setting]);
}

// For readers outside of the process, see layout.h.
extern const struct hak_layout settings_layout;
HAK_C_END

#endif
