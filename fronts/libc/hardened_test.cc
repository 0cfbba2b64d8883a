// SPDX-License-Identifier: Apache-2.0
// What hakmem_hardened stops, as a table of kinds of misuse and sizes: each ends the program with
// one line, by the call that is named, and goes unseen if the setting that stands beside it is
// switched off. Each case is a process of its own, this program with HARDENED_CASE set.
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <new>
#include <set>
#include <string>
#include <vector>

#include "fronts/libc/libc.h"
#include "fronts/libc/shell.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

// Misuse is the point.
#pragma GCC diagnostic ignored "-Wuse-after-free"
#pragma GCC diagnostic ignored "-Wfree-nonheap-object"

namespace {

using testing::HasSubstr;

constexpr size_t kTinyMost = 32768 - 8; // blocks with slabs; above are runs of slabs

// A pointer that the compiler knows nothing of.
char *Hide(const void *p) {
    void *volatile v = const_cast<void *>(p);
    return static_cast<char *>(v);
}

void InThread(void *(*fn)(void *), void *arg) {
    pthread_t thread;
    pthread_create(&thread, nullptr, fn, arg);
    pthread_join(thread, nullptr);
}

// Two live blocks of a size, of which the second starts where the first one ends.
std::pair<char *, char *> Neighbours(size_t size) {
    std::vector<char *> blocks(3000);
    for (char *&block : blocks) {
        block = static_cast<char *>(malloc(size));
    }
    std::sort(blocks.begin(), blocks.end());
    size_t apart = SIZE_MAX;
    for (size_t i = 1; i < blocks.size(); i++) {
        apart = std::min<size_t>(apart, blocks[i] - blocks[i - 1]);
    }
    for (size_t i = 1; i < blocks.size(); i++) {
        // The one before is looked at where it is on the same page.
        if (static_cast<size_t>(blocks[i] - blocks[i - 1]) == apart &&
            reinterpret_cast<uintptr_t>(blocks[i]) % 4096 != 0) {
            return {blocks[i - 1], blocks[i]};
        }
    }
    _exit(3);
}

// Allocates and frees until a block that has been freed must have been handed out again.
void Reuse(size_t size) {
    std::vector<void *> blocks(size > kTinyMost ? 40 : 10000); // more than a cache holds
    for (int i = 0; i < 3; i++) {
        for (void *&block : blocks) {
            block = malloc(size);
        }
        for (void *block : blocks) {
            free(block);
        }
    }
}

// From here on a touch of a page without rights ends the process as a misuse that is told does.
void TellFaults() {
    signal(SIGSEGV, [](int) {
        static const char kText[] = "hakmem: fault(\n";
        if (write(STDERR_FILENO, kText, sizeof kText - 1) < 0) {
            _exit(5);
        }
        abort();
    });
}

struct Kind {
    const char *name;
    // Commits the misuse with a block of `size` bytes. Returns if nothing was said.
    void (*misuse)(size_t size);
    size_t least, most; // sizes that it is for
    const char *call;   // what is reported
    const char *fault;
    const char *off; // settings with which it goes unseen; "": there are none
};

const Kind kKinds[] = {
    {"double free",
     [](size_t size) {
         void *p = malloc(size);
         free(p);
         free(Hide(p));
     },
     0, kTinyMost, "free(", "block freed twice", "HAKMEM_CHECK_FREES=0"},
    {"double free of a large block",
     [](size_t size) {
         void *p = malloc(size);
         free(p);
         free(Hide(p));
     },
     kTinyMost + 1, SIZE_MAX, "free(", "no block there", ""},
    {"double free with twenty others between",
     [](size_t size) {
         void *others[20];
         for (void *&other : others) {
             other = malloc(size);
         }
         void *p = malloc(size);
         free(p);
         for (void *other : others) {
             free(other);
         }
         free(Hide(p));
     },
     0, kTinyMost, "free(", "block freed twice", "HAKMEM_CHECK_FREES=0"},
    {"double free, by another thread",
     [](size_t size) {
         static void *p;
         p = malloc(size);
         InThread(
             [](void *) -> void * {
                 free(p);
                 return nullptr;
             },
             nullptr);
         free(Hide(p));
     },
     0, kTinyMost, "free(", "block freed twice", "HAKMEM_CHECK_FREES=0"},
    {"free after realloc has moved the block",
     [](size_t size) {
         void *p = malloc(size);
         free(Hide(realloc(p, size * 3)));
         free(Hide(p));
     },
     0, kTinyMost, "free(", "block freed twice", "HAKMEM_CHECK_FREES=0"},
    {"free of a pointer into a block", [](size_t size) { free(Hide(malloc(size)) + 16); }, 17,
     SIZE_MAX, "free(", "pointer into a block, not to its start", ""},
    {"free of an unaligned pointer", [](size_t size) { free(Hide(malloc(size)) + 1); }, 2, SIZE_MAX,
     "free(", "pointer into a block, not to its start", ""},
    {"delete of a pointer behind a cookie",
     [](size_t size) { operator delete(Hide(malloc(size)) + 8); }, 9, SIZE_MAX, "free(",
     "pointer into a block, not to its start", ""},
    {"write of 1 byte past the end",
     [](size_t size) {
         char *p = Hide(malloc(size));
         p[size]++;
         free(p);
     },
     0, SIZE_MAX, "free(", "written past the end", "HAKMEM_CANARY=0"},
    {"write of a zero past the end",
     [](size_t size) {
         char *p = Hide(malloc(size));
         p[size] = 0;
         free(p);
     },
     0, SIZE_MAX, "free(", "written past the end", "HAKMEM_CANARY=0"},
    {"write of 8 bytes past the end",
     [](size_t size) {
         char *p = Hide(malloc(size));
         memset(p + size, 'A', 8);
         free(p);
     },
     0, SIZE_MAX, "free(", "written past the end", "HAKMEM_CANARY=0"},
    {"write past the end of a block that realloc resized at its place",
     [](size_t size) {
         char *p = Hide(malloc(size));
         p = Hide(realloc(p, size - 1));
         p[size - 1]++;
         free(p);
     },
     9, SIZE_MAX, "free(", "written past the end", "HAKMEM_CANARY=0"},
    {"write past the end, then realloc",
     [](size_t size) {
         char *p = Hide(malloc(size));
         p[size]++;
         if (realloc(p, size * 2) == nullptr) {
             _exit(4);
         }
     },
     0, SIZE_MAX, "realloc(", "written past the end", "HAKMEM_CANARY=0"},
    {"write past the end, free of the next",
     [](size_t size) {
         auto [p, q] = Neighbours(size);
         memset(p + size, 'A', q - (p + size));
         free(q);
     },
     0, 3000, "free(", "written past the end of the block before", "HAKMEM_CANARY=1"},
    {"write below a block",
     [](size_t size) {
         char *q = Neighbours(size).second;
         q[-1]++;
         free(q);
     },
     0, 3000, "free(", "or below this one", "HAKMEM_CANARY=1"},
    {"write to a freed block",
     [](size_t size) {
         char *p = Hide(malloc(size));
         free(p);
         p[size / 2] = 1;
         Reuse(size);
     },
     0, kTinyMost, "malloc(", "written to after it was freed", "HAKMEM_ZERO=1"},
    {"write to a freed large block",
     [](size_t size) {
         char *p = Hide(malloc(size));
         free(p);
         p[size / 2] = 1;
         Reuse(size);
     },
     kTinyMost + 1, (512 << 10) - 1, "free(", "written to after it was freed", "HAKMEM_ZERO=1"},
    {"touch of a freed large block",
     [](size_t size) {
         char *p = Hide(malloc(size));
         memset(p, 'S', size);
         free(p);
         TellFaults();
         *static_cast<volatile char *>(p + size / 2);
         p[size / 2] = 1;
     },
     512 << 10, SIZE_MAX, "fault(", "", "HAKMEM_PROTECT=0"},
    {"write that runs on behind a large block",
     [](size_t size) {
         char *p = Hide(malloc(size));
         TellFaults();
         for (size_t at = 0; at < size + 2 * 4096; at++) {
             static_cast<volatile char *>(p)[at] = 'A';
         }
     },
     512 << 10, SIZE_MAX, "fault(", "", "HAKMEM_GUARD_LARGE=0"},
    {"read that runs on behind a large block that was resized",
     [](size_t size) {
         // Grown and shrunk in place, grown by far, and shrunk again.
         char *p = Hide(malloc(size));
         for (size_t now : {size + 9000, size - 9000, 3 * size, 2 * size + 9000, 2 * size}) {
             p = Hide(realloc(p, now));
             memset(p, 'A', now);
             size = now;
         }
         TellFaults();
         for (char *at = p + size; at < p + size + 2 * 4096; at += 64) {
             *static_cast<volatile char *>(at);
         }
     },
     512 << 10, SIZE_MAX, "fault(", "", "HAKMEM_GUARD_LARGE=0"},
    {"write that runs on into another slab",
     [](size_t size) {
         // The last block of a slab, behind which another one begins: that of another size,
         // perhaps.
         std::vector<char *> blocks(70000 / size * 3);
         for (char *&block : blocks) {
             block = Hide(malloc(size));
         }
         std::sort(blocks.begin(), blocks.end());
         for (size_t i = 1; i < blocks.size(); i++) {
             uintptr_t end = (reinterpret_cast<uintptr_t>(blocks[i - 1]) | 65535) + 1;
             if (reinterpret_cast<uintptr_t>(blocks[i]) / 65536 == end / 65536) {
                 TellFaults();
                 memset(blocks[i - 1], 'A', end + 1 - reinterpret_cast<uintptr_t>(blocks[i - 1]));
                 return;
             }
         }
         _exit(3);
     },
     8, 4000, "fault(", "", "HAKMEM_GUARD_PAGES=0"},
    {"read of a freed block finds what was there",
     [](size_t size) {
         char *p = Hide(malloc(size));
         memset(p, 'S', size);
         free(p);
         if (memchr(p, 'S', size) == nullptr) {
             fprintf(stderr, "hakmem: nothing(");
             abort();
         }
     },
     0, (512 << 10) - 1, "nothing(", "", "HAKMEM_ZERO=0"},
    {"free_sized with a wrong size", [](size_t size) { free_sized(Hide(malloc(size)), size + 1); },
     0, SIZE_MAX, "free_sized(", "the size given is not the block's", "HAKMEM_CHECK_SIZES=0"},
    {"sized delete with a wrong size",
     [](size_t size) { operator delete(Hide(operator new(size)), size + 1); }, 0, SIZE_MAX,
     "operator delete(", "the size given is not the block's", "HAKMEM_CHECK_SIZES=0"},
    {"sized delete of an array with a wrong size",
     [](size_t size) { operator delete[](Hide(operator new[](size)), size / 2); }, 2, SIZE_MAX,
     "operator delete(", "the size given is not the block's", "HAKMEM_CHECK_SIZES=0"},
    {"free_aligned_sized with a wrong alignment",
     [](size_t size) {
         // A block that is aligned to so much by chance is none to show it with.
         void *p = nullptr;
         do {
             p = malloc(size);
         } while (reinterpret_cast<uintptr_t>(p) % 65536 == 0);
         free_aligned_sized(Hide(p), 65536, size);
     },
     0, SIZE_MAX, "free_aligned_sized(", "the alignment given is not the block's",
     "HAKMEM_CHECK_SIZES=0"},
    {"aligned delete with a wrong alignment",
     [](size_t size) {
         void *p = nullptr;
         do {
             p = operator new (size, std::align_val_t{64});
         } while (reinterpret_cast<uintptr_t>(p) % 65536 == 0);
         operator delete (Hide(p), std::align_val_t{65536});
     },
     0, SIZE_MAX, "operator delete(", "the alignment given is not the block's",
     "HAKMEM_CHECK_SIZES=0"},
    {"realloc of a freed block",
     [](size_t size) {
         void *p = malloc(size);
         free(p);
         if (realloc(Hide(p), size * 3) == nullptr) {
             _exit(4);
         }
     },
     0, kTinyMost, "realloc(", "block was freed", "HAKMEM_CHECK_FREES=0"},
    {"malloc_usable_size of a freed block",
     [](size_t size) {
         void *p = malloc(size);
         free(p);
         if (malloc_usable_size(Hide(p)) == 0) {
             _exit(4);
         }
     },
     0, kTinyMost, "malloc_usable_size(", "block was freed", "HAKMEM_CHECK_FREES=0"},
    {"free of a pointer to the stack",
     [](size_t) {
         alignas(16) char block[64];
         free(Hide(block));
     },
     8, 8, "free(", "not a pointer of this heap", ""},
    {"free of a wild pointer",
     [](size_t) { free(Hide(reinterpret_cast<void *>(uintptr_t{0x123450}))); }, 8, 8, "free(",
     "not a pointer of this heap", ""},
    {"free of a block that was never allocated",
     [](size_t size) {
         // Behind the others of its slab, as the first of a bin are in one.
         char *p = Hide(malloc(size));
         char *end =
             reinterpret_cast<char *>((reinterpret_cast<uintptr_t>(p) & ~uintptr_t{65535}) + 65536);
         size_t block = malloc_usable_size(p) + 8;
         free(end - block);
     },
     // Sizes whose blocks divide a slab.
     1016, 1016, "free(", "block freed twice", "HAKMEM_CHECK_FREES=0"},
    {"a freed block is the next to be handed out",
     [](size_t size) {
         void *p = malloc(size);
         free(p);
         for (int i = 0; i < 8; i++) {
             if (Hide(malloc(size)) == p) {
                 return;
             }
         }
         fprintf(stderr, "hakmem: another(");
         abort();
     },
     0, SIZE_MAX, "another(", "", "HAKMEM_QUARANTINE=0 HAKMEM_RANDOM=0 HAKMEM_ZERO=0"},
    {"blocks follow each other",
     [](size_t size) {
         std::vector<char *> blocks(64);
         for (char *&block : blocks) {
             block = static_cast<char *>(malloc(size));
         }
         std::map<ptrdiff_t, int> steps;
         int most = 0;
         for (size_t i = 1; i < blocks.size(); i++) {
             most = std::max(most, ++steps[blocks[i] - blocks[i - 1]]);
         }
         if (most < 40) {
             fprintf(stderr, "hakmem: no order(");
             abort();
         }
     },
     100, 1000, "no order(", "", "HAKMEM_RANDOM=0"},
    {"addresses of one size are used for another",
     [](size_t size) {
         std::set<uintptr_t> slabs;
         std::vector<void *> blocks(2000);
         for (void *&block : blocks) {
             block = malloc(size);
             slabs.insert(reinterpret_cast<uintptr_t>(block) >> 16);
         }
         for (void *block : blocks) {
             free(block);
         }
         malloc_trim(0);
         for (void *&block : blocks) {
             block = malloc(size * 3);
             if (slabs.count(reinterpret_cast<uintptr_t>(block) >> 16) != 0) {
                 return;
             }
         }
         fprintf(stderr, "hakmem: apart(");
         abort();
     },
     100, 8000, "apart(", "", "HAKMEM_SEPARATE=0"},
};

constexpr size_t kSizes[] = {1,    8,    16,   24,    100,   500,   1000,
                             1016, 1024, 4000, 20000, 32760, 40000, 1 << 20};

// Runs a case if this process is to be one.
__attribute__((constructor)) void RunCase() {
    const char *which = getenv("HARDENED_CASE");
    if (which != nullptr) {
        int kind;
        size_t size;
        if (sscanf(which, "%d %zu", &kind, &size) != 2) {
            _exit(2);
        }
        alarm(60);
        kKinds[kind].misuse(size);
        _exit(0);
    }
}

// Runs a case in a process of its own, with more settings: NAME=VALUE, separated by blanks.
shell::Outcome RunAlone(size_t kind, size_t size, const std::string &settings) {
    static const std::string self = std::filesystem::read_symlink("/proc/self/exe");
    return shell::Run("exec env HARDENED_CASE='" + std::to_string(kind) + " " +
                      std::to_string(size) + "' " + settings + " '" + self + "' 2>&1");
}

TEST(Hardened, EachKindIsStoppedAtOnce) {
    for (size_t kind = 0; kind < std::size(kKinds); kind++) {
        for (size_t size : kSizes) {
            const Kind &k = kKinds[kind];
            if (size < k.least || size > k.most) {
                continue;
            }
            SCOPED_TRACE(std::string(k.name) + ", " + std::to_string(size) + " bytes");
            // A page that is given back is zero again, and hides what was written to it. On a busy
            // machine a process may be that old by then.
            shell::Outcome outcome = RunAlone(kind, size, "HAKMEM_DECAY_MS=-1");
            EXPECT_EQ(outcome.ending, "signal 6");
            EXPECT_THAT(outcome.text, testing::StartsWith("hakmem: " + std::string(k.call)));
            EXPECT_THAT(outcome.text, HasSubstr(k.fault));
            EXPECT_LE(std::count(outcome.text.begin(), outcome.text.end(), '\n'), 1);
        }
    }
}

TEST(Hardened, EachKindGoesUnseenWithoutItsSwitch) {
    for (size_t kind = 0; kind < std::size(kKinds); kind++) {
        for (size_t size : kSizes) {
            const Kind &k = kKinds[kind];
            if (size < k.least || size > k.most || *k.off == '\0') {
                continue;
            }
            SCOPED_TRACE(std::string(k.name) + ", " + std::to_string(size) + " bytes, " + k.off);
            shell::Outcome outcome = RunAlone(kind, size, k.off);
            EXPECT_EQ(outcome.ending, "exit 0");
            EXPECT_EQ(outcome.text, "");
        }
    }
}

// --- What is no misuse

TEST(Hardened, EverySizeCanBeFreedBySize) {
    for (size_t size = 0; size < 70000; size += size < 2000 ? 1 : 997) {
        void *p = malloc(size);
        memset(p, 1, size);
        EXPECT_EQ(malloc_usable_size(p), std::max<size_t>(size, 1));
        free_sized(p, size);
        operator delete(operator new(size), size);
        operator delete[](operator new[](size), size);
        for (size_t align : {16, 64, 4096}) {
            operator delete (operator new (size, std::align_val_t{align}), size,
                             std::align_val_t{align});
            free_aligned_sized(aligned_alloc(align, size), align, size);
        }
        p = realloc(malloc(size + 5), size + 3);
        memset(p, 1, size + 3);
        free_sized(p, size + 3);
        p = realloc(malloc(size + 5), size + 9);
        memset(p, 1, size + 9);
        free_sized(p, size + 9);
        free_sized(calloc(1, size), size);
    }
    free_sized(nullptr, 3);
}

TEST(Hardened, ContentsSurviveResizing) {
    for (size_t size : kSizes) {
        char *p = static_cast<char *>(malloc(size));
        memset(p, 'c', size);
        for (size_t more : {1, 2, 3, 5, 8, 13, 100}) {
            p = static_cast<char *>(realloc(p, size + more));
            ASSERT_EQ(std::count(p, p + size, 'c'), static_cast<ptrdiff_t>(size));
            p = static_cast<char *>(realloc(p, size));
            ASSERT_EQ(std::count(p, p + size, 'c'), static_cast<ptrdiff_t>(size));
        }
        free(p);
    }
}

TEST(Hardened, CallocIsZero) {
    for (int round = 0; round < 3; round++) {
        for (size_t size : kSizes) {
            char *blocks[40];
            for (char *&p : blocks) {
                p = static_cast<char *>(calloc(1, size));
                ASSERT_EQ(std::count(p, p + size, 0), static_cast<ptrdiff_t>(size)) << size;
                memset(p, 'x', size);
            }
            for (char *p : blocks) {
                free(p);
            }
        }
    }
}

} // namespace
