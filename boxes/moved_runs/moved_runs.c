// SPDX-License-Identifier: Apache-2.0
#include "boxes/moved_runs/moved_runs.h"

#include "backends/os.h"
#include "boxes/base/atomic.h"

// An entry: the first slab in the upper half of the word, the number of slabs in the lower half; 0
// is free.
static _Atomic(uint64_t) table[MOVED_RUNS_MOST + 1];
static _Atomic(size_t) count; // entries in use
static _Atomic(size_t) end;

static uint64_t pack(struct moved_run run) {
    return run.slabs == 0 ? 0 : (uint64_t)run.from << 32 | run.slabs;
}

// A process that moves few runs does not read the kernel's limit.
static size_t most(size_t noted) {
    enum { UNASKED = 8, MAPPINGS_EACH = 72 };
    return noted < UNASKED ? hak_min((size_t)UNASKED, MOVED_RUNS_MOST)
                           : hak_min(os_most_mappings() / MAPPINGS_EACH, MOVED_RUNS_MOST);
}

bool moved_runs_add(struct moved_run run) {
    size_t noted = atomic_load(&count);
    if (noted >= most(noted)) {
        return false;
    }
    for (size_t i = 0; i != MOVED_RUNS_MOST; i++) {
        uint64_t none = 0;
        if (atomic_load_explicit(&table[i], memory_order_relaxed) == 0 &&
            atomic_compare_exchange_strong(&table[i], &none, pack(run))) {
            atomic_fetch_add(&count, 1);
            size_t seen = atomic_load(&end);
            while (seen <= i && !atomic_compare_exchange_weak(&end, &seen, i + 1)) {
            }
            return true;
        }
    }
    return false;
}

bool moved_runs_change(size_t index, struct moved_run was, struct moved_run now) {
    uint64_t seen = pack(was);
    if (seen == 0 || !atomic_compare_exchange_strong(&table[index], &seen, pack(now))) {
        return false;
    }
    if (now.slabs == 0) {
        atomic_fetch_sub(&count, 1);
    }
    return true;
}

struct moved_run moved_runs_at(size_t index) {
    uint64_t word = atomic_load_explicit(&table[index], memory_order_acquire);
    return (struct moved_run){word >> 32, (uint32_t)word};
}

size_t moved_runs_end(void) {
    return atomic_load_explicit(&end, memory_order_acquire);
}

size_t moved_runs_count(void) {
    return atomic_load_explicit(&count, memory_order_relaxed);
}
