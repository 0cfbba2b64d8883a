// SPDX-License-Identifier: Apache-2.0
// Kernels of the calls besides malloc and free: aligned blocks, calloc, realloc, usable sizes.
#include "benchmarks/workers/kernels/kernels.h"

#include <malloc.h>

namespace {

void *aligned(size_t align, size_t size) {
    void *block = nullptr;
    if (posix_memalign(&block, align, size) != 0) {
        worker_die("posix_memalign failed");
    }
    return touch(block);
}

uint64_t aligned_line(Run &run) {
    return replace<512>(run,
                        [](Run &of) { return touch(aligned_alloc(64, 64 + 64 * below(of, 8))); });
}

uint64_t aligned_page(Run &run) {
    return replace<512>(run, [](Run &of) { return aligned(4096, 4096 + 4096 * below(of, 4)); });
}

uint64_t aligned_huge(Run &run) {
    return replace<16>(run, [](Run &) { return aligned(2 << 20, 2 << 20); });
}

uint64_t aligned_any(Run &run) {
    return replace<512>(run, [](Run &of) {
        const size_t align = size_t{32} << below(of, 6);
        return touch(memalign(align, 1 + below(of, 3000)));
    });
}

uint64_t calloc_small(Run &run) {
    return replace<1024>(run, [](Run &of) { return worker_check(calloc(1, 16 + below(of, 256))); });
}

uint64_t calloc_page(Run &run) {
    return replace<256>(run,
                        [](Run &of) { return worker_check(calloc(1, 3000 + below(of, 2048))); });
}

uint64_t calloc_100k(Run &run) {
    return replace<64>(run, [](Run &of) { return touch(calloc(1, 60000 + below(of, 80000))); });
}

uint64_t calloc_100k_filled(Run &run) {
    return replace<64>(run, [](Run &of) {
        const size_t size = 60000 + below(of, 80000);
        return fill(calloc(1, size), size);
    });
}

uint64_t calloc_1m(Run &run) {
    return replace<16>(run, [](Run &of) { return touch(calloc(1, 500000 + below(of, 1000000))); });
}

uint64_t calloc_1m_filled(Run &run) {
    return replace<16>(run, [](Run &of) {
        const size_t size = 500000 + below(of, 1000000);
        return fill(calloc(1, size), size);
    });
}

uint64_t realloc_growth(Run &run) {
    constexpr uint64_t kSteps = 2000;
    constexpr size_t kStep = 24;
    uint64_t done = 0;
    for (; done < run.count; done += kSteps) {
        char *block = nullptr;
        for (size_t step = 1; step <= kSteps; step++) {
            block = static_cast<char *>(worker_check(realloc(block, step * kStep)));
            block[step * kStep - 1] = 1;
        }
        free(block);
    }
    return done;
}

uint64_t realloc_doubling(Run &run) {
    uint64_t done = 0;
    while (done < run.count) {
        size_t size = 64;
        char *block = static_cast<char *>(touch(malloc(size)));
        for (; size < 1 << 20; size *= 2) {
            block = static_cast<char *>(worker_check(realloc(block, 2 * size)));
            memset(block + size, 1, size);
            done++;
        }
        free(block);
    }
    return done;
}

// Gives blocks of `kSlots` slots a size of `least` to `least + range - 1` bytes.
template <size_t kSlots> uint64_t resize(Run &run, size_t least, uint64_t range) {
    static void *slots[kSlots];
    for (uint64_t i = 0; i < run.count; i++) {
        void **slot = &slots[below(run, kSlots)];
        *slot = touch(realloc(*slot, least + below(run, range)));
    }
    return run.count;
}

uint64_t realloc_small(Run &run) {
    return resize<1024>(run, 1, 512);
}

uint64_t realloc_1m(Run &run) {
    return resize<32>(run, 1000, 1000000);
}

uint64_t usable_size(Run &run) {
    static void *slots[1024];
    for (void *&slot : slots) {
        slot = touch(malloc(1 + below(run, 5000)));
    }
    starts_now(run);
    size_t sum = 0;
    for (uint64_t i = 0; i < run.count; i++) {
        sum += malloc_usable_size(slots[below(run, 1024)]);
    }
    return sum != 0 ? run.count : 0;
}

} // namespace

const Kernel kCallKernels[] = {
    {"aligned-line", "aligned_alloc of 64 to 512 B to 64 B; free", 2000000, aligned_line},
    {"aligned-page", "posix_memalign of 4 to 16 KiB to 4 KiB; free", 300000, aligned_page},
    {"aligned-huge", "posix_memalign of 2 MiB to 2 MiB; free", 3000, aligned_huge},
    {"aligned-any", "memalign of 1 to 3000 B to 32 B to 1 KiB; free", 1000000, aligned_any},
    {"calloc-small", "calloc of 16 to 271 B; free", 3000000, calloc_small},
    {"calloc-4k", "calloc of 3000 to 5047 B; free", 500000, calloc_page},
    {"calloc-100k", "calloc of 60 to 140 kB, a byte written; free", 30000, calloc_100k},
    {"calloc-100k-filled", "the same, all of it written", 30000, calloc_100k_filled},
    {"calloc-1m", "calloc of 0.5 to 1.5 MB, a byte written; free", 4000, calloc_1m},
    {"calloc-1m-filled", "the same, all of it written", 4000, calloc_1m_filled},
    {"realloc-24", "realloc to 24 B more, up to 48 kB, then freed", 200000, realloc_growth},
    {"realloc-double", "realloc to twice as much, 64 B to 1 MiB, all of it written", 5600,
     realloc_doubling},
    {"realloc-small", "realloc to another size of 1 to 512 B", 3000000, realloc_small},
    {"realloc-1m", "realloc to another size of 1 kB to 1 MB", 20000, realloc_1m},
    {"usable-size", "malloc_usable_size of one of 1024 blocks of 1 to 5000 B", 3000000,
     usable_size},
    {nullptr, nullptr, 0, nullptr},
};
