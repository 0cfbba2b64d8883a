// SPDX-License-Identifier: Apache-2.0
// names: compares the names of mallctl() with patterns, in which <a> stands for the number of an
// arena and <b> for that of a bin.
#ifndef HAKMEM_FRONTS_COMPAT_JEMALLOC_NAMES_H
#define HAKMEM_FRONTS_COMPAT_JEMALLOC_NAMES_H

#include "boxes/base/base.h"

HAK_C_BEGIN

enum { NAMES_DEPTH = 6 }; // most components of a name

// Numbers of bins, from 0 on. One less than size_class has, whose bin 0 is none.
unsigned names_bins(void);

// Returns true if the components of `name` are the first ones of `pattern`. Then sets mib[*depth]
// to their numbers, and *whole if `pattern` has no more. The number of a text is a hash of it.
bool names_match(const char *pattern, const char *name, size_t *mib, size_t *depth, bool *whole);

// Returns true if mib[depth] are the numbers of all components of `pattern`.
bool names_match_mib(const char *pattern, const size_t *mib, size_t depth);

// Finds the numbers that stand in place of <a> and <b> among the numbers of all components.
void names_numbers(const char *pattern, const size_t *mib, size_t *numbers);
HAK_C_END

#endif
