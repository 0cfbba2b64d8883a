// SPDX-License-Identifier: Apache-2.0
#include "boxes/superslab/superslab.h"

size_t superslab_grain = HAK_HARDENED ? 1 : HAK_CACHE_LINE;

// Counts a block of `size` bytes, whose slabs or pages have `most` bytes. (If other threads use the
// heap, `size` and `most` may be those of different blocks.)
static void count_large(struct superslab_stats *stats, size_t size, size_t most) {
    stats->large_blocks++;
    stats->large_bytes += size;
    size_t pages = hak_min(hak_round_up(size, HAK_PAGE), most);
    stats->large_pages += pages;
    if (size >= SUPERSLAB_MAPPED) {
        stats->mapped_blocks++;
        stats->mapped_pages += pages;
    }
}

static void count_tiny(struct superslab_stats *stats, const struct page_arena_window *window,
                       size_t slab) {
    struct slab *meta = superslab_slab(window, slab);
    unsigned bin = atomic_load_explicit(&meta->bin, memory_order_relaxed);
    stats->tiny_slabs++;
    stats->bin_slabs[bin]++;
    stats->bin_absent[bin] += superslab_absent(meta, bin);
    stats->bin_free[bin] +=
        atomic_bitmap_count_run(superslab_bits(window, slab, bin), 0, size_class_bins[bin].blocks);
}

// Counts the medium blocks of the chunk that starts with a slab.
static void count_chunk(struct superslab_stats *stats, const struct page_arena_window *window,
                        size_t slab) {
    stats->large_slabs += SUPERSLAB_CHUNK_SLABS;
    for (size_t page = 0; page < SUPERSLAB_CHUNK_PAGES; page++) {
        uint64_t entry =
            atomic_load_explicit(superslab_entry(window, slab, page), memory_order_relaxed);
        if (entry != 0) {
            count_large(stats, superslab_entry_size(entry),
                        (size_t)superslab_entry_pages(entry) << HAK_PAGE_SHIFT);
        }
    }
}

void superslab_get_stats(struct superslab_stats *stats) {
    *stats = (struct superslab_stats){0};
    struct page_arena_window window;
    size_t top = page_arena_walk(&window);
    size_t large_end = 0; // the end of the run seen last
    for (size_t first = 0; first < top; first += ARENA_SUPERSLAB_SLABS) {
        if (!superslab_known(&window, first)) {
            continue;
        }
        struct superslab *superslab = superslab_at(&window, first);
        stats->homes += atomic_load_explicit(&superslab->owner, memory_order_relaxed) != 0;
        stats->spare_slabs += (size_t)__builtin_popcount(
            atomic_load_explicit(&superslab->spare, memory_order_relaxed));
        bool used = false;
        for (size_t i = first; i < first + ARENA_SUPERSLAB_SLABS; i++) {
            struct slab *slab = superslab_slab(&window, i);
            uint8_t kind = atomic_load_explicit(&slab->kind, memory_order_acquire);
            // A slab inside a large run has no kind of its own.
            used |= kind != SLAB_NONE || i < large_end;
            switch (kind) {
            case SLAB_TINY:
                count_tiny(stats, &window, i);
                break;
            case SLAB_LARGE:
                large_end = i + atomic_load_explicit(&slab->run, memory_order_relaxed);
                stats->large_guards +=
                    (atomic_load_explicit(&slab->flags, memory_order_relaxed) & SLAB_GUARD) != 0;
                stats->large_slabs += large_end - i;
                count_large(stats, atomic_load_explicit(&slab->size, memory_order_relaxed),
                            (large_end - i) << ARENA_SLAB_SHIFT);
                break;
            case SLAB_CHUNK:
                large_end = i + SUPERSLAB_CHUNK_SLABS;
                count_chunk(stats, &window, i);
                break;
            case SLAB_PRIVATE:
                large_end = i + atomic_load_explicit(&slab->run, memory_order_relaxed);
                stats->private_slabs += large_end - i;
                break;
            case SLAB_HEAP:
                stats->heap_slabs++;
                break;
            default:
                break;
            }
        }
        stats->superslabs += used;
    }
}

HAK_LAYOUT(
    superslab_layout, HAK_ROWS(HAK_VARIABLE("superslab_grain", superslab_grain)),
    HAK_ROWS(HAK_FIELD("superslab.slabs", struct superslab, slabs),
             HAK_FIELD("superslab.bits", struct superslab, bits),
             HAK_FIELD("superslab.owner", struct superslab, owner),
             HAK_FIELD("superslab.spare", struct superslab, spare),
             HAK_NUMBER("superslab.bits_each", sizeof((struct superslab *)0)->bits[0]),
             HAK_NUMBER("slab", sizeof(struct slab)), HAK_FIELD("slab.kind", struct slab, kind),
             HAK_FIELD("slab.bin", struct slab, bin), HAK_FIELD("slab.clean", struct slab, clean),
             HAK_FIELD("slab.colour", struct slab, colour), HAK_FIELD("slab.run", struct slab, run),
             HAK_FIELD("slab.size", struct slab, size), HAK_FIELD("slab.pages", struct slab, pages),
             HAK_FIELD("slab.room", struct slab, room), HAK_FIELD("slab.flags", struct slab, flags),
             HAK_NUMBER("slab.guard", SLAB_GUARD), HAK_FIELD("slab.bits", struct slab, bits),
             HAK_NUMBER("slab.inline_words", SLAB_INLINE_WORDS),
             HAK_NUMBER("slab.pages_held", SUPERSLAB_PAGES_HELD),
             HAK_NUMBER("kind.tiny", SLAB_TINY), HAK_NUMBER("kind.large", SLAB_LARGE),
             HAK_NUMBER("kind.heap", SLAB_HEAP), HAK_NUMBER("kind.private", SLAB_PRIVATE),
             HAK_NUMBER("kind.chunk", SLAB_CHUNK),
             HAK_NUMBER("medium.slabs", SUPERSLAB_CHUNK_SLABS),
             HAK_NUMBER("medium.slot_shift", SUPERSLAB_ENTRY_SLOT),
             HAK_NUMBER("medium.colour_shift", SUPERSLAB_ENTRY_COLOUR),
             HAK_NUMBER("medium.size_shift", SUPERSLAB_ENTRY_SIZE)));
