// SPDX-License-Identifier: Apache-2.0
// A thread is held where it is about to give a slab back that was all free a moment ago, as a
// preemption can hold it. Others take the slab's blocks, give the slab back themselves, and put it
// to use for blocks of another size, of which as many are free as the slab had before: its bitmap
// reads the same again. The thread that goes on then must leave the slab alone.
//
// The thread is held by a breakpoint, written over the first byte of the function it is about to
// call.
#include <elf.h>
#include <link.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "fronts/libc/test_util.h"
#include "gtest/gtest.h"

namespace {

constexpr char kFunction[] = "pool_give_if_free";
constexpr size_t kTwoInASlab = 32768 - SIZE_CLASS_HEADER;
constexpr size_t kMoreInASlab = SIZE_CLASS_HEADER != 0 ? 16384 - SIZE_CLASS_HEADER : 18432;
constexpr size_t kMore = SIZE_CLASS_HEADER != 0 ? 4 : 3;

unsigned char *place;
unsigned char instruction;
std::atomic<bool> held;
std::atomic<bool> go;

// Where a local function of this program is, by the program's own symbol table; 0 if nowhere.
uintptr_t Address(const char *name) {
    std::ifstream in("/proc/self/exe", std::ios::binary);
    const std::string file{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    uintptr_t base = 0;
    dl_iterate_phdr(
        [](dl_phdr_info *info, size_t, void *to) { // the program itself comes first
            *static_cast<uintptr_t *>(to) = info->dlpi_addr;
            return 1;
        },
        &base);
    auto at = [&file](size_t offset) { return file.data() + offset; };
    const auto *header = reinterpret_cast<const Elf64_Ehdr *>(at(0));
    const auto *sections = reinterpret_cast<const Elf64_Shdr *>(at(header->e_shoff));
    for (unsigned i = 0; i < header->e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB) {
            continue;
        }
        const auto *symbols = reinterpret_cast<const Elf64_Sym *>(at(sections[i].sh_offset));
        const char *names = at(sections[sections[i].sh_link].sh_offset);
        for (size_t s = 0; s < sections[i].sh_size / sizeof *symbols; s++) {
            if (ELF64_ST_TYPE(symbols[s].st_info) == STT_FUNC &&
                strcmp(names + symbols[s].st_name, name) == 0) {
                return base + symbols[s].st_value;
            }
        }
    }
    return 0;
}

// A thread has come to the place: the others pass it from now on, and this one waits.
void OnTrap(int, siginfo_t *, void *context) {
    static_cast<ucontext_t *>(context)->uc_mcontext.gregs[REG_RIP] -= 1;
    *place = instruction;
    held = true;
    while (!go) {
        usleep(100);
    }
}

uintptr_t SlabOf(const void *block) {
    return reinterpret_cast<uintptr_t>(block) >> 16;
}

// Allocates blocks of a size until `count` lie in one slab, in `slab` if that is not 0, and returns
// these in the order of their addresses. The others go to `rest`.
std::vector<char *> AllocateASlab(size_t size, size_t count, uintptr_t slab,
                                  std::vector<void *> *rest) {
    std::map<uintptr_t, std::set<char *>> slabs;
    for (int i = 0; i < 2000; i++) {
        char *block = static_cast<char *>(malloc(size));
        std::set<char *> &those = slabs[SlabOf(block)];
        those.insert(block);
        if (those.size() == count && (slab == 0 || SlabOf(block) == slab)) {
            std::vector<char *> found(those.begin(), those.end());
            slabs.erase(SlabOf(block));
            for (const auto &[number, others] : slabs) {
                rest->insert(rest->end(), others.begin(), others.end());
            }
            return found;
        }
    }
    ADD_FAILURE() << count << " blocks of " << size << " B in one slab: not to be had";
    return {};
}

std::vector<void *> kept; // so that no other slab becomes free
uintptr_t slab;

void *FreeASlab(void *) {
    std::vector<char *> blocks = AllocateASlab(kTwoInASlab, 2, 0, &kept);
    slab = SlabOf(blocks.front());
    free(blocks[0]);
    *place = 0xCC;
    free(blocks[1]);
    malloc_trim(0); // empties the caches, if the blocks went there: all of the slab is free
    return nullptr;
}

TEST(StalledReclaim, LeavesASlabAloneThatServesAnotherSizeByNow) {
    place = reinterpret_cast<unsigned char *>(Address(kFunction));
    ASSERT_NE(place, nullptr) << "the program has no function of that name";
    const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    void *pages = reinterpret_cast<void *>(reinterpret_cast<uintptr_t>(place) & ~(page - 1));
    if (mprotect(pages, 2 * page, PROT_READ | PROT_WRITE | PROT_EXEC) != 0) {
        GTEST_SKIP() << "this system lets no program write to its own instructions";
    }
    instruction = *place;
    struct sigaction action = {};
    action.sa_sigaction = OnTrap;
    action.sa_flags = SA_SIGINFO;
    ASSERT_EQ(sigaction(SIGTRAP, &action, nullptr), 0);
    pthread_t thread;
    ASSERT_EQ(pthread_create(&thread, nullptr, FreeASlab, nullptr), 0);
    while (!held) {
        usleep(100);
    }
    // The slab is taken, freed again and given back by this thread, then put to another use.
    for (char *block : AllocateASlab(kTwoInASlab, 2, slab, &kept)) {
        free(block);
    }
    malloc_trim(0);
    std::vector<char *> blocks = AllocateASlab(kMoreInASlab, kMore, slab, &kept);
    ASSERT_EQ(blocks.size(), kMore);
    for (size_t i = 0; i < kMore; i++) {
        memset(blocks[i], static_cast<int>(0x11 * i), kMoreInASlab);
    }
    free(blocks[0]);
    free(blocks[1]);
    malloc_trim(0);
    go = true;
    pthread_join(thread, nullptr);
    // A block that was given back by mistake would be part of one of these.
    std::vector<void *> large;
    for (int i = 0; i < 2000; i++) {
        large.push_back(malloc(60000));
        memset(large.back(), 0x55, 60000);
    }
    for (size_t i = 2; i < kMore; i++) {
        const std::string expected(kMoreInASlab, static_cast<char>(0x11 * i));
        EXPECT_EQ(memcmp(blocks[i], expected.data(), kMoreInASlab), 0)
            << "a live block was handed out again";
        free(blocks[i]);
    }
    for (void *block : large) {
        free(block);
    }
    for (void *block : kept) {
        free(block);
    }
}

} // namespace
