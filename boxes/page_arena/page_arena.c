#include "boxes/page_arena/page_arena.h"

#include "backends/os.h"
#include "boxes/diagnostics/diagnostics.h"
#include "boxes/run_cache/run_cache.h"
#include "boxes/settings/settings.h"

// The window is placed between the random hints of JavaScript engines (below 64 TiB) and the
// addresses that the kernel gives programs (above 85 TiB).
#if !defined(__SANITIZE_THREAD__)
#    define ZONE_START   ((uintptr_t)64 << 40)
#    define ZONE_SIZE    ((uintptr_t)16 << 40)
#    define WINDOW_MOST  ((size_t)4 << 40)
#    define WINDOW_USUAL ((size_t)1 << 40)
#else
// ThreadSanitizer has no shadow for the addresses there. It has for the topmost 1.5 TiB, of which
// the kernel uses the upper 1 TiB.
#    define ZONE_START   ((uintptr_t)0x7e8000000000)
#    define ZONE_SIZE    ((uintptr_t)512 << 30)
#    define WINDOW_MOST  ((size_t)256 << 30)
#    define WINDOW_USUAL WINDOW_MOST
#endif
#define WINDOW_LEAST ((size_t)ARENA_GROUP_SLABS << ARENA_SLAB_SHIFT)
#define CHUNK_USUAL  ((size_t)64 << 20)
#define CHUNK_LEAST  ((size_t)4 << 20) // a whole word of slabs

// What is ordered, and by what:
//
// - What a holder did with a slab comes before what the next one does: putting the bit into `avail`
//   releases, claiming it acquires. `dirty` is written between the two, by the holder.
// - `config` and `high` publish what lies behind them: mapped metadata. Stored by a
//   read-modify-write, loaded with acquire.
// - A release sets a bit and then looks at `lowest`; a search raises `lowest` and then looks at the
//   bits that it has passed. One of the two must see the other: all four are sequentially
//   consistent.
// - `committed` stands for rights that the kernel gave before the bit was set. They are not data of
//   this process: a relaxed look is enough, as it is for hints and counts.

// The whole configuration in one word, so that it is published by one compare-and-swap: the base
// (2 MiB aligned), log2 of the window's slabs in bits 0..7 and of a chunk's slabs in bits 8..15.
static _Atomic uintptr_t config;

static struct {
    _Atomic size_t high;         // see page_arena_high()
    _Atomic size_t lowest;       // no slab below this word index is avail
    _Atomic size_t dirty;        // free dirty slabs
    _Atomic size_t held;         // claimed slabs
    _Atomic size_t reserved;     // bytes
    _Atomic size_t readable_end; // see page_arena_readable(), a SuperSlab's index
    _Atomic uint64_t purged_slabs, moved_slabs;
    _Atomic size_t sparse; // see page_arena_count_sparse()
    _Atomic bool dense;    // see page_arena_mark_dense()
} state;

static size_t window_slabs(uintptr_t word) {
    return (size_t)1 << (word & 0xff);
}
static size_t chunk_slabs(uintptr_t word) {
    return (size_t)1 << (word >> 8 & 0xff);
}

// What lies at the start of the window: page map, groups, regions, and a bit a chunk that says
// "taken".
static size_t groups_offset(size_t slabs) {
    return hak_round_up(slabs, HAK_PAGE);
}

static size_t regions_offset(size_t slabs) {
    size_t groups = slabs / ARENA_GROUP_SLABS;
    return groups_offset(slabs) + hak_round_up(groups * sizeof(struct page_arena_group), HAK_PAGE);
}

static size_t chunks_offset(size_t slabs) {
    size_t regions = (slabs + ARENA_REGION_SLABS - 1) / ARENA_REGION_SLABS;
    return regions_offset(slabs) + hak_round_up(regions * sizeof(struct page_arena_region), 64);
}

struct page_arena_window page_arena_get_window(void) {
    uintptr_t word = atomic_load_explicit(&config, memory_order_acquire);
    struct page_arena_window window = {0};
    if (word != 0) {
        size_t slabs = window_slabs(word);
        window.base = (char *)(word & ~(uintptr_t)(ARENA_SUPERSLAB - 1));
        window.slabs = slabs;
        window.groups = (struct page_arena_group *)(window.base + groups_offset(slabs));
        window.regions = (struct page_arena_region *)(window.base + regions_offset(slabs));
        window.meta = window.base + (slabs << ARENA_SLAB_SHIFT);
    }
    return window;
}

static size_t control_size(size_t slabs, size_t chunk) {
    return hak_round_up(chunks_offset(slabs) + slabs / chunk / 8 + 8, HAK_PAGE);
}

static atomic_bitmap_word *taken_chunks(const struct page_arena_window *window) {
    return (atomic_bitmap_word *)(window->base + chunks_offset(window->slabs));
}

static bool place_window(size_t bytes, size_t chunk, uint64_t *seed, uintptr_t *word) {
    size_t slabs = bytes >> ARENA_SLAB_SHIFT;
    size_t control = control_size(slabs, chunk);
    size_t whole = bytes + bytes / ARENA_SUPERSLAB * ARENA_SUPERSLAB_META;
    enum { PLACES = 16 };
    for (int i = 0; i <= PLACES; i++) {
        void *at;
        if (i < PLACES) {
            *seed = *seed * 6364136223846793005u + 1442695040888963407u;
            at = (void *)(ZONE_START + (*seed >> 16) %
                                           ((ZONE_SIZE - whole) >> ARENA_SUPERSLAB_SHIFT) *
                                           ARENA_SUPERSLAB);
        } else {
            // No such address on this kernel: take a range of its choice, as a hint for our own.
            void *range;
            if (os_reserve(NULL, whole + ARENA_SUPERSLAB, &range) != OS_OK) {
                return false;
            }
            os_release(range, whole + ARENA_SUPERSLAB);
            at = (void *)hak_round_up((uintptr_t)range, ARENA_SUPERSLAB);
        }
        enum os_result result = os_map(at, control, NULL);
        if (result == OS_OK) {
            *word = (uintptr_t)at | hak_log2(slabs) | (uintptr_t)hak_log2(chunk) << 8;
            return true;
        }
    }
    return false;
}

bool page_arena_init(void) {
    if (atomic_load_explicit(&config, memory_order_acquire) != 0) {
        return true;
    }
    // Without a limit: four times the memory there is, and 1 TiB at least. With one, no more than
    // the limit, in small chunks: the heap must leave address space to stacks and libraries.
    size_t limit = os_address_limit();
    size_t bytes = WINDOW_USUAL;
    size_t chunk = CHUNK_USUAL;
    if (limit == SIZE_MAX) {
        size_t memory = os_physical_memory();
        while (bytes < WINDOW_MOST && bytes / 4 < memory) {
            bytes *= 2;
        }
    } else {
        while (bytes > WINDOW_LEAST && bytes / 2 >= limit) {
            bytes /= 2;
        }
        while (chunk > CHUNK_LEAST && chunk > limit / 32) {
            chunk /= 2;
        }
    }
    uint64_t seed = os_random();
    uintptr_t word;
    while (!place_window(bytes, chunk >> ARENA_SLAB_SHIFT, &seed, &word)) {
        if (bytes <= WINDOW_LEAST) {
            return false;
        }
        bytes /= 2;
    }
    // The chunks that the control area lies in stay out of use.
    size_t slabs = window_slabs(word);
    char *base = (char *)(word & ~(uintptr_t)(ARENA_SUPERSLAB - 1));
    size_t control = control_size(slabs, chunk_slabs(word));
    atomic_bitmap_word *taken = (atomic_bitmap_word *)(base + chunks_offset(slabs));
    atomic_bitmap_put_run(taken, 0, (control + chunk - 1) / chunk);
    uintptr_t none = 0;
    if (!atomic_compare_exchange_strong(&config, &none, word)) {
        os_release(base, control);
    }
    return true;
}

static size_t load_max(_Atomic size_t *at, size_t value) {
    size_t seen = atomic_load_explicit(at, memory_order_relaxed);
    while (seen < value && !atomic_compare_exchange_weak(at, &seen, value)) {
    }
    return seen;
}

static void lower(_Atomic size_t *at, size_t value) {
    size_t seen = atomic_load(at);
    while (seen > value && !atomic_compare_exchange_weak(at, &seen, value)) {
    }
}

static atomic_bitmap_word *avail_word(const struct page_arena_window *window, size_t word) {
    return &window->groups[word / 32].avail[word % 32];
}

static atomic_bitmap_word *dirty_word(const struct page_arena_window *window, size_t word) {
    return &window->groups[word / 32].dirty[word % 32];
}

// Calls `fn` for the part of a run that lies in each group.
#define FOR_EACH_GROUP(window, from, count, group, first, here)                           \
    for (size_t at_ = (from), end_ = (from) + (count), here = 0; at_ < end_; at_ += here) \
        for (struct page_arena_group *group = &(window)->groups[at_ / ARENA_GROUP_SLABS]; \
             group != NULL; group = NULL)                                                 \
            for (size_t first = at_ % ARENA_GROUP_SLABS, once_ = 1;                       \
                 once_ && (here = hak_min(end_ - at_, ARENA_GROUP_SLABS - first), true);  \
                 once_ = 0)

static void put_avail(const struct page_arena_window *window, size_t from, size_t count) {
    FOR_EACH_GROUP(window, from, count, group, first, here) {
        atomic_bitmap_put_run(group->avail, first, here);
    }
    lower(&state.lowest, from / 64);
}

static bool claim_avail(const struct page_arena_window *window, size_t from, size_t count) {
    bool ok = true;
    size_t done = 0;
    FOR_EACH_GROUP(window, from, count, group, first, here) {
        if (ok && atomic_bitmap_claim_run(group->avail, first, here)) {
            done += here;
        } else {
            ok = false;
        }
    }
    if (!ok && done > 0) {
        put_avail(window, from, done);
    }
    return ok;
}

static size_t count_dirty(const struct page_arena_window *window, size_t from, size_t count) {
    size_t sum = 0;
    FOR_EACH_GROUP(window, from, count, group, first, here) {
        sum += atomic_bitmap_count_run(group->dirty, first, here);
    }
    return sum;
}

// Reserves chunk `index`, and its SuperSlabs' metadata.
static enum os_result reserve_chunks(const struct page_arena_window *window, size_t chunk,
                                     size_t index, size_t count) {
    char *at = page_arena_address(window, index * chunk);
    size_t bytes = (count * chunk) << ARENA_SLAB_SHIFT;
    enum os_result result = os_reserve(at, bytes, NULL);
    if (result != OS_OK) {
        return result;
    }
    size_t superslab = index * chunk / ARENA_SUPERSLAB_SLABS;
    size_t superslabs = count * chunk / ARENA_SUPERSLAB_SLABS;
    result = os_map(window->meta + superslab * ARENA_SUPERSLAB_META,
                    superslabs * ARENA_SUPERSLAB_META, NULL);
    if (result != OS_OK) {
        os_release(at, bytes);
        return result;
    }
    atomic_fetch_add_explicit(&state.reserved, bytes, memory_order_relaxed);
    put_avail(window, index * chunk, count * chunk);
    load_max(&state.high, (index + count) * chunk);
    return OS_OK;
}

// Makes `slabs` more adjacent slabs available; OS_NO_MEMORY if the kernel refuses or no address is
// left. After OS_TAKEN the caller tries again: what stood in the way is out of the set by then.
static enum os_result grow(const struct page_arena_window *window, size_t slabs) {
    uintptr_t word = atomic_load_explicit(&config, memory_order_relaxed);
    size_t chunk = chunk_slabs(word);
    size_t chunks = window->slabs / chunk;
    size_t want = (slabs + chunk - 1) / chunk;
    atomic_bitmap_word *taken = taken_chunks(window);
    size_t start = 0;
    size_t length = 0;
    for (size_t i = 0; i < chunks && length < want; i++) {
        uint64_t bits = atomic_load_explicit(&taken[i / 64], memory_order_relaxed);
        if (i % 64 == 0 && bits == ~UINT64_C(0)) {
            length = 0;
            i += 63;
            continue;
        }
        if ((bits >> (i % 64) & 1) != 0) {
            length = 0;
        } else {
            start = length == 0 ? i : start;
            length++;
        }
    }
    if (length < want) {
        return OS_NO_MEMORY;
    }
    for (size_t i = 0; i < want; i++) {
        uint64_t bit = UINT64_C(1) << ((start + i) % 64);
        if ((atomic_bitmap_put(&taken[(start + i) / 64], bit) & bit) != 0) {
            atomic_bitmap_clear_run(taken, start, i); // someone else was faster
            return OS_TAKEN;
        }
    }
    enum os_result result = reserve_chunks(window, chunk, start, want);
    if (result == OS_OK) {
        return OS_OK;
    }
    if (result == OS_TAKEN && want > 1) {
        // Find which of them it was; the others are good.
        for (size_t i = 0; i < want; i++) {
            if (reserve_chunks(window, chunk, start + i, 1) == OS_NO_MEMORY) {
                atomic_bitmap_clear_run(taken, start + i, want - i);
                return OS_NO_MEMORY;
            }
        }
    } else if (result == OS_NO_MEMORY) {
        atomic_bitmap_clear_run(taken, start, want);
    }
    return result;
}

static size_t limit_slabs(void) {
    size_t limit = (size_t)settings_get(SETTING_LIMIT);
    return limit == 0 ? 0 : hak_max(limit >> ARENA_SLAB_SHIFT, 1);
}

// Gives the SuperSlabs of held slabs read and write rights. A SuperSlab is only ever decommitted by
// someone who holds all of it, so the bits of these cannot be cleared meanwhile.
static bool commit(const struct page_arena_window *window, size_t from, size_t slabs, bool huge) {
    size_t first = from / ARENA_SUPERSLAB_SLABS;
    size_t last = (from + slabs - 1) / ARENA_SUPERSLAB_SLABS;
    for (size_t i = first; i <= last; i++) {
        size_t end = i;
        while (end <= last && !atomic_bitmap_test(&window->groups[end / 64].committed, end % 64)) {
            end++;
        }
        if (end == i) {
            continue;
        }
        char *at = page_arena_address(window, i * ARENA_SUPERSLAB_SLABS);
        size_t bytes = (end - i) * ARENA_SUPERSLAB;
        if (os_commit(at, bytes) != OS_OK) {
            return false;
        }
        if (huge || settings_get(SETTING_THP) == 1) {
            os_huge_pages(at, bytes, true);
        }
        for (; i < end; i++) {
            atomic_bitmap_put(&window->groups[i / 64].committed, UINT64_C(1) << i % 64);
        }
    }
    return true;
}

// Ends a claim: commits, and answers whether every page of the run is untouched.
static bool finish_claim(const struct page_arena_window *window, size_t from, size_t slabs,
                         bool huge, bool *zero) {
    if (!commit(window, from, slabs, huge)) {
        put_avail(window, from, slabs);
        return false;
    }
    size_t last = (from + slabs - 1) / ARENA_SUPERSLAB_SLABS;
    for (size_t i = from / ARENA_SUPERSLAB_SLABS; i <= last; i++) {
        if (!atomic_bitmap_test(&window->groups[i / 64].meta_used, i % 64)) {
            atomic_bitmap_put(&window->groups[i / 64].meta_used, UINT64_C(1) << i % 64);
        }
    }
    size_t dirty = count_dirty(window, from, slabs);
    if (dirty > 0) {
        atomic_fetch_sub_explicit(&state.dirty, dirty, memory_order_relaxed);
    }
    *zero = dirty == 0;
    return true;
}

// The lowest run of free slabs (of free dirty ones: `dirty`), or ARENA_NONE. Claims it.
static size_t find_run(const struct page_arena_window *window, size_t slabs, size_t align,
                       bool dirty) {
    size_t high = page_arena_high();
    size_t step = align >> ARENA_SLAB_SHIFT;
    size_t origin = ((uintptr_t)window->base >> ARENA_SLAB_SHIFT) & (step - 1);
    size_t lowest = atomic_load(&state.lowest);
    size_t start = 0;
    size_t length = 0;
    bool seen_any = false;
    size_t words = high / 64;
    for (size_t w = lowest; w < words; w++) {
        uint64_t bits = atomic_load_explicit(avail_word(window, w), memory_order_relaxed);
        if (bits != 0 && !seen_any) {
            seen_any = true;
            if (w > lowest && atomic_compare_exchange_strong(&state.lowest, &lowest, w)) {
                // A release below may have looked at the old value before we raised it.
                for (size_t v = lowest; v < w; v++) {
                    if (atomic_load(avail_word(window, v)) != 0) {
                        lower(&state.lowest, v);
                        break;
                    }
                }
            }
        }
        if (dirty && bits != 0) {
            bits &= atomic_load_explicit(dirty_word(window, w), memory_order_relaxed);
        }
        unsigned bit = 0;
        while (bit < 64) {
            uint64_t rest = bits >> bit;
            if (length == 0) {
                if (rest == 0) {
                    break;
                }
                bit += (unsigned)__builtin_ctzll(rest);
                start = w * 64 + bit;
                size_t aligned = hak_round_up(start + origin, step) - origin;
                if (aligned != start) {
                    if (aligned >= (w + 1) * 64) {
                        w = aligned / 64 - 1; // the loop adds one
                        bit = 64;
                        // The word at `aligned` is entered at its start; aligned bits come first.
                        break;
                    }
                    bit += (unsigned)(aligned - start);
                    if ((bits >> bit & 1) == 0) {
                        continue;
                    }
                    start = aligned;
                }
                rest = bits >> bit;
            }
            unsigned ones = rest == ~UINT64_C(0) ? 64 : (unsigned)__builtin_ctzll(~rest);
            unsigned here = (unsigned)hak_min(ones, 64 - bit);
            length += here;
            bit += here;
            if (length >= slabs) {
                if (claim_avail(window, start, slabs)) {
                    return start;
                }
                length = 0; // lost it to another thread: go on behind
            } else if (bit < 64) {
                length = 0;
            }
        }
    }
    return ARENA_NONE;
}

static void give_quota(size_t slabs) {
    atomic_fetch_sub(&state.held, slabs);
}

// Counts slabs that are about to be claimed. Under HAKMEM_LIMIT what is free but has pages makes
// room for them; false if that is not enough.
static bool take_quota(size_t slabs) {
    size_t limit = limit_slabs();
    if (limit != 0 && slabs > limit) {
        return false;
    }
    size_t held = atomic_fetch_add(&state.held, slabs) + slabs;
    if (HAK_LIKELY(limit == 0)) {
        return true;
    }
    if (held > limit) {
        give_quota(slabs);
        return false;
    }
    size_t cursor = 0;
    while (held + page_arena_dirty() > limit) {
        page_arena_purge(&cursor, 0, held + page_arena_dirty() - limit);
        if (cursor == 0) {
            break; // others are at it, or have taken them
        }
    }
    return true;
}

static size_t claim(size_t slabs, size_t align, bool huge, bool *zero);

static size_t claim_held(size_t slabs, size_t align, bool huge, bool *zero) {
    if (slabs > page_arena_get_window().slabs || !take_quota(slabs)) {
        return ARENA_NONE;
    }
    size_t from = claim(slabs, align, huge, zero);
    if (from == ARENA_NONE) {
        give_quota(slabs);
    }
    return from;
}

size_t page_arena_claim(size_t slabs, size_t align, bool *zero) {
    return claim_held(slabs, align, false, zero);
}

void page_arena_mark_dense(bool dense) {
    if (atomic_load_explicit(&state.dense, memory_order_relaxed) != dense) {
        atomic_store_explicit(&state.dense, dense, memory_order_relaxed);
    }
}

void page_arena_count_sparse(ptrdiff_t slabs) {
    atomic_fetch_add_explicit(&state.sparse, (size_t)slabs, memory_order_relaxed);
}

size_t page_arena_sparse(void) {
    return atomic_load_explicit(&state.sparse, memory_order_relaxed);
}

static bool wants_huge(void) {
    // Under a limit nothing is advised: it may be in memory without being held.
    return atomic_load_explicit(&state.dense, memory_order_relaxed) &&
           settings_get(SETTING_THP) == 2 && limit_slabs() == 0;
}

size_t page_arena_claim_filled(size_t slabs, size_t align, bool *zero) {
    return claim_held(slabs, align, wants_huge(), zero);
}

// True if there was something.
static bool release_aside(void) {
    unsigned cursor = 0;
    bool any = false;
    for (;;) {
        struct run_cache_run run = run_cache_take_any(&cursor);
        if (run.slabs == 0) {
            return any;
        }
        page_arena_release(run.from, run.slabs, true);
        any = true;
    }
}

size_t page_arena_reuse(size_t slabs) {
    static_assert(RUN_CACHE_NONE == ARENA_NONE, "no run is no slab");
    return run_cache_take(slabs);
}

void page_arena_set_aside(size_t from, size_t slabs) {
    // Under a limit what is set aside would be missing elsewhere.
    struct run_cache_run run = {from, slabs};
    if (HAK_LIKELY(limit_slabs() == 0)) {
        run = run_cache_put(from, slabs);
    }
    if (run.slabs != 0) {
        page_arena_release(run.from, run.slabs, true);
    }
}

static size_t claim(size_t slabs, size_t align, bool huge, bool *zero) {
    struct page_arena_window window = page_arena_get_window();
    align = hak_max(align, ARENA_SLAB);
    if (align > window.slabs << ARENA_SLAB_SHIFT) {
        return ARENA_NONE;
    }
    bool looked_aside = false;
    for (;;) {
        size_t from = ARENA_NONE;
        if (atomic_load_explicit(&state.dirty, memory_order_relaxed) >= slabs) {
            from = find_run(&window, slabs, align, true);
        }
        if (from == ARENA_NONE) {
            // What has pages comes before what has none. Once: others may set aside all the time.
            if (!looked_aside) {
                looked_aside = true;
                if (release_aside()) {
                    continue;
                }
            }
            from = find_run(&window, slabs, align, false);
        }
        if (from != ARENA_NONE) {
            return finish_claim(&window, from, slabs, huge, zero) ? from : ARENA_NONE;
        }
        size_t more = slabs + (align >> ARENA_SLAB_SHIFT) - 1;
        if (grow(&window, more) == OS_NO_MEMORY) {
            return ARENA_NONE;
        }
    }
}

bool page_arena_claim_at(size_t from, size_t slabs, bool *zero) {
    struct page_arena_window window = page_arena_get_window();
    size_t high = page_arena_high();
    if (from >= high || slabs > high - from) {
        return false;
    }
    if (!take_quota(slabs)) {
        return false;
    }
    if ((claim_avail(&window, from, slabs) ||
         (release_aside() && claim_avail(&window, from, slabs))) &&
        finish_claim(&window, from, slabs, wants_huge(), zero)) {
        return true;
    }
    give_quota(slabs);
    return false;
}

static uint32_t now_ms(void) {
    return (uint32_t)os_now_ms();
}

void page_arena_release(size_t from, size_t slabs, bool dirty) {
    struct page_arena_window window = page_arena_get_window();
    if (dirty) {
        FOR_EACH_GROUP(&window, from, slabs, group, first, here) {
            atomic_bitmap_put_run(group->dirty, first, here);
        }
    }
    size_t added = dirty ? slabs : count_dirty(&window, from, slabs);
    if (added > 0) {
        uint32_t now = now_ms();
        FOR_EACH_GROUP(&window, from, slabs, group, first, here) {
            size_t last = (first + here - 1) / ARENA_SUPERSLAB_SLABS;
            for (size_t s = first / ARENA_SUPERSLAB_SLABS; s <= last; s++) {
                atomic_store_explicit(&group->freed_at[s], now, memory_order_relaxed);
            }
        }
        atomic_fetch_add_explicit(&state.dirty, added, memory_order_relaxed);
    }
    put_avail(&window, from, slabs);
    give_quota(slabs);
}

static void mark_moved(const struct page_arena_window *window, size_t from, size_t slabs) {
    size_t last = (from + slabs - 1) / ARENA_SUPERSLAB_SLABS;
    for (size_t s = from / ARENA_SUPERSLAB_SLABS; s <= last; s++) {
        atomic_bitmap_put(&window->groups[s / 64].moved, UINT64_C(1) << s % 64);
    }
}

static void clear_dirty(const struct page_arena_window *window, size_t from, size_t slabs) {
    FOR_EACH_GROUP(window, from, slabs, group, first, here) {
        atomic_bitmap_clear_run(group->dirty, first, here);
    }
}

bool page_arena_move(size_t from, size_t to, size_t slabs) {
    struct page_arena_window window = page_arena_get_window();
    size_t bytes = slabs << ARENA_SLAB_SHIFT;
    mark_moved(&window, from, slabs);
    mark_moved(&window, to, slabs);
    enum os_result result =
        os_move(page_arena_address(&window, from), page_arena_address(&window, to), bytes);
    if (result == OS_LOST) {
        diag_broken(__func__, "the kernel took a part of the heap and would not give it back");
    }
    if (result != OS_OK) {
        return false;
    }
    clear_dirty(&window, from, slabs);
    atomic_fetch_add_explicit(&state.moved_slabs, slabs, memory_order_relaxed);
    return true;
}

// Gives back the pages of a run that the caller holds. False if the kernel would not.
static bool purge_held(const struct page_arena_window *window, size_t from, size_t slabs) {
    char *at = page_arena_address(window, from);
    size_t bytes = slabs << ARENA_SLAB_SHIFT;
    size_t last = (from + slabs - 1) / ARENA_SUPERSLAB_SLABS;
    bool moved = false;
    for (size_t s = from / ARENA_SUPERSLAB_SLABS; s <= last && !moved; s++) {
        moved = atomic_bitmap_test(&window->groups[s / 64].moved, s % 64);
    }
    if (moved && os_refresh(at, bytes) == OS_OK) {
        clear_dirty(window, from, slabs);
        return true;
    }
    if (os_purge(at, bytes) == OS_OK) {
        clear_dirty(window, from, slabs);
        return true;
    }
    return false;
}

bool page_arena_clean(size_t from, size_t slabs) {
    struct page_arena_window window = page_arena_get_window();
    return purge_held(&window, from, slabs);
}

// Purges what is free, dirty and old enough in one word (4 MiB).
static size_t purge_word(const struct page_arena_window *window, size_t word, uint32_t now,
                         uint32_t age_ms, size_t budget) {
    uint64_t bits = atomic_load_explicit(avail_word(window, word), memory_order_relaxed);
    bits &= bits == 0 ? 0 : atomic_load_explicit(dirty_word(window, word), memory_order_relaxed);
    for (unsigned half = 0; half < 2 && bits != 0; half++) {
        _Atomic uint32_t *freed_at = &window->groups[word / 32].freed_at[word % 32 * 2 + half];
        if (now - atomic_load_explicit(freed_at, memory_order_relaxed) < age_ms) {
            bits &= half == 0 ? ~UINT64_C(0) << 32 : UINT64_C(0xffffffff);
        }
    }
    size_t done = 0;
    while (bits != 0 && done < budget) {
        unsigned from = (unsigned)__builtin_ctzll(bits);
        uint64_t rest = bits >> from;
        unsigned count = rest == ~UINT64_C(0) ? 64 : (unsigned)__builtin_ctzll(~rest);
        count = (unsigned)hak_min(count, budget - done);
        uint64_t mask = atomic_bitmap_mask(from, count);
        bits &= ~mask;
        if (!atomic_bitmap_claim_run(avail_word(window, word), from, count)) {
            continue; // in use again
        }
        // A slab may have been purged by another thread since the look: count what is dirty now.
        size_t dirty = atomic_bitmap_count_run(dirty_word(window, word), from, count);
        if (dirty > 0 && purge_held(window, word * 64 + from, count)) {
            atomic_fetch_sub_explicit(&state.dirty, dirty, memory_order_relaxed);
            done += count;
        }
        put_avail(window, word * 64 + from, count);
    }
    return done;
}

// Gives back the metadata of SuperSlabs of a word none of whose slabs is in use.
static void purge_meta(const struct page_arena_window *window, size_t word) {
    struct page_arena_group *group = &window->groups[word / 32];
    for (unsigned half = 0; half < 2; half++) {
        size_t superslab = word % 32 * 2 + half; // within the group
        uint64_t bit = UINT64_C(1) << superslab;
        uint64_t slabs = UINT64_C(0xffffffff) << (half * 32);
        uint64_t seen =
            atomic_load_explicit(avail_word(window, word), memory_order_relaxed) & slabs;
        uint64_t dirty =
            atomic_load_explicit(dirty_word(window, word), memory_order_relaxed) & slabs;
        if (seen != slabs || dirty != 0 || (atomic_load(&group->meta_used) & bit) == 0) {
            continue;
        }
        size_t first = word * 64 + half * 32;
        if (claim_avail(window, first, ARENA_SUPERSLAB_SLABS)) {
            char *meta = window->meta + first / ARENA_SUPERSLAB_SLABS * ARENA_SUPERSLAB_META;
            if (os_purge(meta, ARENA_SUPERSLAB_META) == OS_OK) {
                atomic_fetch_and(&group->meta_used, ~bit);
            }
            put_avail(window, first, ARENA_SUPERSLAB_SLABS);
        }
    }
}

size_t page_arena_purge(size_t *cursor, uint32_t age_ms, size_t budget) {
    struct page_arena_window window = page_arena_get_window();
    size_t words = page_arena_high() / 64;
    uint32_t now = now_ms();
    size_t done = 0;
    size_t word = *cursor;
    if (word == 0) {
        release_aside();
    }
    for (; word < words && done < budget; word++) {
        size_t got = purge_word(&window, word, now, age_ms, budget - done);
        done += got;
        if (done == budget) {
            break; // there may be more in this word
        }
        purge_meta(&window, word);
    }
    *cursor = word < words ? word : 0;
    atomic_fetch_add_explicit(&state.purged_slabs, done, memory_order_relaxed);
    return done;
}

// What is set aside is still held as the arena's own books have it.
size_t page_arena_dirty(void) {
    return atomic_load_explicit(&state.dirty, memory_order_relaxed) + run_cache_slabs();
}

size_t page_arena_held(void) {
    size_t held = atomic_load_explicit(&state.held, memory_order_relaxed);
    return held - hak_min(held, run_cache_slabs());
}

size_t page_arena_high(void) {
    return atomic_load_explicit(&state.high, memory_order_acquire);
}

char *page_arena_readable(size_t *length) {
    struct page_arena_window window = page_arena_get_window();
    uintptr_t word = atomic_load_explicit(&config, memory_order_relaxed);
    *length = 0;
    if (word == 0) {
        return NULL;
    }
    size_t chunk = chunk_slabs(word);
    size_t first = (control_size(window.slabs, chunk) >> ARENA_SLAB_SHIFT) / chunk * chunk + chunk;
    size_t from = first / ARENA_SUPERSLAB_SLABS;
    size_t end = hak_max(from, atomic_load_explicit(&state.readable_end, memory_order_relaxed));
    size_t high = page_arena_high() / ARENA_SUPERSLAB_SLABS;
    while (end < high && atomic_bitmap_test(&window.groups[end / 64].committed, end % 64)) {
        end++;
    }
    load_max(&state.readable_end, end);
    *length = (end - from) * ARENA_SUPERSLAB;
    return page_arena_address(&window, first);
}

void page_arena_get_stats(struct page_arena_stats *stats) {
    struct page_arena_window window = page_arena_get_window();
    *stats = (struct page_arena_stats){
        .reserved_bytes = atomic_load(&state.reserved),
        .held_slabs = page_arena_held(),
        .dirty_slabs = page_arena_dirty(),
        .aside_slabs = run_cache_slabs(),
        .purged_slabs = atomic_load(&state.purged_slabs),
        .moved_slabs = atomic_load(&state.moved_slabs),
    };
    size_t groups = (page_arena_high() + ARENA_GROUP_SLABS - 1) / ARENA_GROUP_SLABS;
    for (size_t g = 0; g < groups; g++) {
        stats->committed_bytes +=
            atomic_bitmap_count_run(&window.groups[g].committed, 0, 64) * ARENA_SUPERSLAB;
    }
}
