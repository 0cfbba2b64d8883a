// SPDX-License-Identifier: Apache-2.0
#include "boxes/superslab/superslab.h"

size_t superslab_grain = HAK_HARDENED ? 1 : HAK_CACHE_LINE;

static void count_large(struct superslab_stats *stats, size_t run, size_t size) {
    stats->large_blocks++;
    stats->large_slabs += run;
    stats->large_bytes += size;
    // The two may be of different blocks.
    size_t pages = hak_min(hak_round_up(size, HAK_PAGE), run << ARENA_SLAB_SHIFT);
    stats->large_pages += pages;
    if (size >= SUPERSLAB_MAPPED) {
        stats->mapped_blocks++;
        stats->mapped_pages += pages;
    }
}

void superslab_get_stats(struct superslab_stats *stats) {
    *stats = (struct superslab_stats){0};
    struct page_arena_window window;
    size_t top = page_arena_walk(&window);
    size_t large_end = 0; // of the run seen last
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
            case SLAB_TINY: {
                unsigned bin = atomic_load_explicit(&slab->bin, memory_order_relaxed);
                stats->tiny_slabs++;
                stats->bin_slabs[bin]++;
                stats->bin_absent[bin] += superslab_absent(slab, bin);
                stats->bin_free[bin] += atomic_bitmap_count_run(superslab_bits(&window, i, bin), 0,
                                                                size_class_bins[bin].blocks);
                break;
            }
            case SLAB_LARGE:
                large_end = i + atomic_load_explicit(&slab->run, memory_order_relaxed);
                stats->large_guards +=
                    (atomic_load_explicit(&slab->flags, memory_order_relaxed) & SLAB_GUARD) != 0;
                count_large(stats, large_end - i,
                            atomic_load_explicit(&slab->size, memory_order_relaxed));
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
             HAK_NUMBER("kind.heap", SLAB_HEAP), HAK_NUMBER("kind.private", SLAB_PRIVATE)));
