// SPDX-License-Identifier: Apache-2.0
// Any sequence of calls of the interface keeps what the interface promises: no two live blocks
// overlap, contents survive, alignment and usable size hold, calloc() is zero, what cannot be is
// refused with the right errno. (Threads are heap_model_test's part.)
#include "tools/build/fuzz.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <new>

#include "fronts/libc/libc.h"

// All calls are one allocator's.
#ifndef __clang__
#    pragma GCC diagnostic ignored "-Wmismatched-dealloc"
#    pragma GCC diagnostic ignored "-Wmismatched-new-delete"
#endif

namespace {

// Called by a pointer that the compiler does not see through: it takes any alignment for a power of
// two, and its sanitizer stops at 0.
void *(*const volatile any_memalign)(size_t, size_t) = memalign;

constexpr size_t kSlots = 48;
constexpr size_t kMost = size_t{64} << 20; // bytes live at once

// The model has no memory of the heap's.
struct Block {
    unsigned char *p;
    size_t usable;
    size_t size;  // as asked for
    size_t align; // likewise, 0 if not
    uint64_t id;
};
Block slots[kSlots];
uint64_t next_id;
size_t live_bytes;

// Where a block's content is written and looked at: everywhere, or at both ends and once a page, or
// less in very large ones.
template <typename Fn> void Visit(size_t size, Fn fn) {
    const size_t step = size > 1 << 20 ? 65536 + 8 : 4096;
    for (size_t at = 0; at < size; at++) {
        if (at == 256 && size > 4096 + 256) {
            for (; at + step < size - 256; at += step) {
                fn(at);
            }
            at = size - 256;
        }
        fn(at);
    }
}

unsigned char Content(const Block &block, size_t at) {
    return static_cast<unsigned char>((block.id * 251 + at) * 0x9e3779b1u >> 16);
}

void CheckContent(const Block &block, const unsigned char *p, size_t size) {
    Visit(block.usable, [&](size_t at) { FUZZ_CHECK(at >= size || p[at] == Content(block, at)); });
}

// A block that the heap says is ours from now on, all of its usable bytes.
void Insert(Block &slot, void *p, size_t size, size_t align) {
    FUZZ_CHECK(reinterpret_cast<uintptr_t>(p) % std::max(align, size_t{16}) == 0);
    Block block = {static_cast<unsigned char *>(p), malloc_usable_size(p), size, align, ++next_id};
    FUZZ_CHECK(block.usable >= size && block.usable > 0);
    for (const Block &other : slots) {
        FUZZ_CHECK(other.p == nullptr || block.p + block.usable <= other.p ||
                   other.p + other.usable <= block.p);
    }
    Visit(block.usable, [&](size_t at) { block.p[at] = Content(block, at); });
    slot = block;
    live_bytes += block.usable;
}

Block Remove(Block &slot) {
    Block block = slot;
    CheckContent(block, block.p, block.usable);
    live_bytes -= block.usable;
    slot.p = nullptr;
    return block;
}

// Free slots are for what allocates, used ones for the rest; NULL if there is none.
Block *Pick(FuzzInput &input, bool used) {
    size_t first = input.Below(kSlots);
    for (size_t i = 0; i < kSlots; i++) {
        Block &slot = slots[(first + i) % kSlots];
        if ((slot.p != nullptr) == used) {
            return &slot;
        }
    }
    return nullptr;
}

size_t Size(FuzzInput &input) {
    size_t kind = input.Below(16);
    if (kind < 8) {
        return input.Number(1) * 4;
    }
    if (kind < 13) {
        return input.Number(2);
    }
    if (kind < 15) {
        return input.Number(3) / (kind == 13 ? 32 : 4);
    }
    // Above what can be.
    return input.Flag() ? SIZE_MAX - input.Number(3) : (size_t{1} << 47) << input.Below(16);
}

bool CannotBe(size_t size) {
    return size >= size_t{1} << 47;
}

// Puts the block that an allocation of `size` bytes returned into a slot.
void Allocated(Block &slot, void *p, size_t size, size_t align) {
    if (CannotBe(size)) {
        FUZZ_CHECK(p == nullptr && errno == ENOMEM);
        return;
    }
    FUZZ_CHECK(p != nullptr);
    Insert(slot, p, size, align);
}

void Allocate(FuzzInput &input, Block &slot) {
    size_t kind = input.Below(8);
    size_t size = Size(input);
    if (!CannotBe(size) && size + live_bytes > kMost) {
        return;
    }
    errno = 0;
    switch (kind) {
    case 0:
    case 1:
        return Allocated(slot, malloc(size), size, 0);
    case 2: {
        size_t count = 1 + input.Below(16);
        if (CannotBe(size)) { // the product, which may be nothing much
            size_t product;
            bool wraps = __builtin_mul_overflow(size, count, &product);
            if (!wraps && !CannotBe(product)) {
                return;
            }
        } else {
            size /= count;
        }
        void *p = calloc(count, size);
        if (CannotBe(size)) {
            FUZZ_CHECK(p == nullptr && errno == ENOMEM);
            return;
        }
        Visit(size * count,
              [&](size_t at) { FUZZ_CHECK(static_cast<unsigned char *>(p)[at] == 0); });
        return Allocated(slot, p, size * count, 0);
    }
    case 3: {
        size_t align = size_t{1} << input.Below(24);
        return Allocated(slot, aligned_alloc(align, size), size, align);
    }
    case 4: {
        size_t align = input.Flag() ? size_t{8} << input.Below(20) : input.Number(2);
        void *p = &slot;
        int result = posix_memalign(&p, align, size);
        if (align == 0 || (align & (align - 1)) != 0 || align % sizeof(void *) != 0) {
            FUZZ_CHECK(result == EINVAL && p == &slot);
        } else if (CannotBe(size)) {
            FUZZ_CHECK(result == ENOMEM && p == &slot);
        } else {
            FUZZ_CHECK(result == 0 && errno == 0);
            Insert(slot, p, size, align);
        }
        return;
    }
    case 5:
        return Allocated(slot, ::operator new(size, std::nothrow), size, 0);
    case 6: {
        size_t align = input.Number(2);
        size_t rounded = 1; // what is no power of two counts as the next one
        while (rounded < align) {
            rounded *= 2;
        }
        return Allocated(slot, any_memalign(align, size), size, rounded);
    }
    default:
        return Allocated(slot, realloc(nullptr, size), size, 0);
    }
}

void Free(FuzzInput &input, Block &slot) {
    Block block = Remove(slot);
    errno = E2BIG;
    switch (input.Below(5)) {
    case 0:
        free_sized(block.p, block.size);
        break;
    case 1:
        free_aligned_sized(block.p, block.align, block.size);
        break;
    case 2:
        // By size only where no alignment chose another bin, nor a realloc() kept a larger one.
        if (block.align == 0) {
            ::operator delete(block.p, block.size);
            break;
        }
        ::operator delete(block.p);
        break;
    default:
        free(block.p);
        break;
    }
    FUZZ_CHECK(errno == E2BIG);
}

void Resize(FuzzInput &input, Block &slot) {
    size_t size = Size(input);
    if (!CannotBe(size) && size + live_bytes > kMost) {
        return;
    }
    size_t count = input.Flag() ? 1 + input.Below(3) : 0;
    errno = 0;
    Block block = Remove(slot);
    if (CannotBe(size)) {
        FUZZ_CHECK(realloc(block.p, size) == nullptr && errno == ENOMEM);
        FUZZ_CHECK(reallocarray(block.p, size_t{1} << 40, size) == nullptr && errno == ENOMEM);
        slot = block;
        live_bytes += block.usable;
        return;
    }
    size -= count == 0 ? 0 : size % count;
    void *p = count == 0 ? realloc(block.p, size) : reallocarray(block.p, count, size / count);
    if (size == 0) {
        FUZZ_CHECK(p == nullptr);
        return;
    }
    FUZZ_CHECK(p != nullptr);
    CheckContent(block, static_cast<unsigned char *>(p), std::min(size, block.usable));
    // Its bin is no longer what its size says: 1 is the alignment that says so.
    Insert(slot, p, size, 1);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    FuzzInput input(data, size);
    while (input.More()) {
        size_t what = input.Below(16);
        Block *slot = Pick(input, what >= 7);
        if (slot == nullptr) {
            continue;
        }
        if (what < 7) {
            Allocate(input, *slot);
        } else if (what < 10) {
            Free(input, *slot);
        } else if (what < 14) {
            Resize(input, *slot);
        } else if (what == 14) {
            FUZZ_CHECK(malloc_usable_size(slot->p) == slot->usable);
            CheckContent(*slot, slot->p, slot->usable);
        } else {
            malloc_trim(0);
        }
    }
    for (Block &slot : slots) {
        if (slot.p != nullptr) {
            free(Remove(slot).p);
        }
    }
    return 0;
}
