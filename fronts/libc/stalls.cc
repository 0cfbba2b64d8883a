// SPDX-License-Identifier: Apache-2.0
// stalls: run by tools/stalls with a flavour's shared library and a list of the atomic instructions
// in it. Holds a thread at each of them, while other threads run random operations.
//
// A lock-free allocator is right if a thread may be preempted between any two instructions, for any
// time, whatever others do meanwhile. The steps that others can see are the atomic instructions, so
// a thread is held before one of them or right behind it, a great many times, and at every one.
//
// How a thread is held: a trap instruction (int3) is written over the first byte of the
// instruction. The handler of the first thread that comes by puts the byte back, so that others
// pass, and stays until these have done some hundreds of operations. To stop behind the instruction
// the thread runs it alone, under the processor's trap flag. A thread that is not to be held there
// runs it so too, and then the trap is set again.
//
// The library is opened with dlopen(), from a copy that has traps in it already: so its constructor
// can be held too, while threads from before use it, as those of another preloaded library may.
// The model and libc use libc's malloc, which no stall of ours can block.
//
// Everything happens in child processes: each has settings, threads and sizes of its own, drawn
// from a seed, and holds a few threads, one after the other. The model: no block overlaps a live
// one, contents survive, alignment and usable size hold, calloc() is zero, a forked child finds all
// blocks as they were, and in the end nothing is left in use. A process that ends otherwise than
// it should, or comes to a standstill, is a fault.
//
// Some steps are rarely reached: those behind a lost race (blocks that were taken from a slab of
// another bin by then and go back, a summary that two threads write, a purge that meets a claim),
// and those for more threads than can have a heap. Others are for kernels and limits that this
// machine does not have: the process makes system calls end as they would there (seccomp), so that
// memory is refused, is charged for, or gets lost. For a lost race up to three threads are held at
// other steps meanwhile, which lead to the step that is wanted: those of the same function, those
// of functions that it calls, as long as it is on the thread's stack, and those that kMeetings
// names.
//
// There are some twenty kinds of processes. Each gets its share of the time; besides, every other
// process of a long run has a goal, a step that was not held yet, and is of a kind that has been
// seen to call the goal's function. To see that, the first byte of each function is a trap in a
// kind's first processes. A long run lists what it has not held.
//
// The steps that leave out the atomic prefix, which a process of one thread takes, are not held:
// nobody is there who could come in between.
#include <dirent.h>
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bitset>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "fronts/libc/block_content.h"
#include "fronts/libc/splitmix.h"

// In C a struct and a function may share a name, as stat and stat() do; -Wshadow minds it in C++.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#include "boxes/statistics/statistics.h"
#pragma GCC diagnostic pop

namespace {

using test_util::Content;
using Random = test_util::SplitMix;

constexpr size_t kKiB = size_t{1} << 10;
constexpr size_t kMiB = size_t{1} << 20;
constexpr size_t kFar = size_t{1} << 30; // what may be a mapping of its own
constexpr int kSkipped = 77;
constexpr int kFault = 3;

void PauseUs(long us) {
    struct timespec rest = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&rest, nullptr);
}

double Now() {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) / 1e9;
}

// --- What is known of the library

struct Place {
    uintptr_t at;       // address within the library
    std::string target; // the variable that the instruction changes, as far as is known
    std::string name;   // function: instruction
    int function;       // a number in `functions`
};

// Never destroyed: a process may exit while its threads go on.
std::vector<Place> &places = *new std::vector<Place>;                            // by address
std::map<std::string, uintptr_t> &calls = *new std::map<std::string, uintptr_t>; // exported
std::vector<std::pair<uintptr_t, std::string>> &functions =
    *new std::vector<std::pair<uintptr_t, std::string>>;             // by address
std::vector<unsigned char> &image = *new std::vector<unsigned char>; // the file
size_t plain_steps; // atomic for one thread only: not held

int FindPlace(uintptr_t at) {
    auto found = std::lower_bound(places.begin(), places.end(), at,
                                  [](const Place &place, uintptr_t x) { return place.at < x; });
    return found == places.end() || found->at != at ? -1 : static_cast<int>(found - places.begin());
}

constexpr int kMostFunctions = 2048;
using Functions = std::bitset<kMostFunctions>;

// The function that the code at an address of the library belongs to; -1 if there is none.
int FindFunction(uintptr_t at) {
    auto next = std::upper_bound(
        functions.begin(), functions.end(), at,
        [](uintptr_t x, const std::pair<uintptr_t, std::string> &f) { return x < f.first; });
    bool inside = next != functions.begin() && next != functions.end();
    return inside ? static_cast<int>(next - functions.begin()) - 1 : -1;
}

// Lines of tools/stalls, by address: "call ADDRESS NAME" of what is exported, "func ADDRESS NAME",
// "step ADDRESS TARGET NAME", "plain ADDRESS TARGET NAME". The last function is the end of the
// others.
bool ReadList(const char *path) {
    FILE *in = fopen(path, "r");
    if (in == nullptr) {
        return false;
    }
    char line[500];
    while (fgets(line, sizeof line, in) != nullptr) {
        char kind[8];
        unsigned long at;
        int name;
        if (sscanf(line, "%7s %lx %n", kind, &at, &name) != 2) {
            continue;
        }
        line[strcspn(line, "\n")] = '\0';
        if (strcmp(kind, "call") == 0) {
            calls[line + name] = at;
        } else if (strcmp(kind, "step") == 0) {
            std::string target(line + name, strcspn(line + name, " "));
            std::string rest = line + name + target.size() + (line[name + target.size()] == ' ');
            places.push_back({at, target, rest, static_cast<int>(functions.size()) - 1});
        } else if (strcmp(kind, "func") == 0) {
            functions.push_back({at, line + name});
        } else {
            plain_steps++;
        }
    }
    fclose(in);
    std::sort(places.begin(), places.end(),
              [](const Place &a, const Place &b) { return a.at < b.at; });
    return true;
}

bool ReadImage(const char *path) {
    FILE *in = fopen(path, "rb");
    if (in == nullptr) {
        return false;
    }
    unsigned char buf[65536];
    size_t n;
    while ((n = fread(buf, 1, sizeof buf, in)) > 0) {
        image.insert(image.end(), buf, buf + n);
    }
    fclose(in);
    return image.size() > sizeof(Elf64_Ehdr);
}

// The byte of the file that comes to lie at an address of the library; image.size() if none does.
size_t FileOffset(uintptr_t at) {
    Elf64_Ehdr header;
    memcpy(&header, image.data(), sizeof header);
    for (int i = 0; i < header.e_phnum; i++) {
        Elf64_Phdr segment;
        memcpy(&segment, image.data() + header.e_phoff + i * sizeof segment, sizeof segment);
        if (segment.p_type == PT_LOAD && at >= segment.p_vaddr &&
            at - segment.p_vaddr < segment.p_filesz) {
            return at - segment.p_vaddr + segment.p_offset;
        }
    }
    return image.size();
}

// --- What all processes share

enum Mode { kBefore, kBehind, kModes };
constexpr size_t kMostPlaces = 2000;
constexpr unsigned kTold = 6;          // stalls that a fault's report names
constexpr unsigned kMostHolds = 5;     // until others are armed
constexpr unsigned kMostPartners = 3;  // threads that are held at a time so that others lose races
constexpr unsigned kPartnerHolds = 20; // of them, until others are armed
constexpr unsigned kMostPasses = 300;  // of a trap by threads that are not held there; then it goes

// The kinds of processes. The first ones make system calls end as they would on another kernel, or
// under limits that this one does not have.
enum Kind : uint64_t {
    kPurges,  // for half of the heap madvise() fails
    kCommits, // mprotect() fails
    kMaps,    // mmap() fails
    kMoves,   // mremap() fails
    kOldMaps, // likewise, and mmap() knows no MAP_FIXED_NOREPLACE
    kFars,    // blocks of GiBs, for which there is no room in one piece
    kLosses,  // mmap() over a mapping fails, and loses it
    kCharges, // what can be written to is charged for
    kTight,   // little data is allowed
    kTaken,   // others have mapped what the heap is about to grow by
    kFewMaps, // few mappings are allowed
    kWays,    // so many of these
    kLimits = kWays,
    kStatistics,
    kHuge,
    kGrows,
    kFilters, // the program gives itself filters
    kProfiles,
    kGuards,
    kRecords,
    kPages, // slabs of small blocks lose pages
    kPlain,
    kKinds,
};
constexpr const char *kKindNames[] = {
    "purges",  "commits", "maps",     "moves",    "old maps", "fars",       "losses",
    "charges", "tight",   "taken",    "few maps", "limits",   "statistics", "huge",
    "grows",   "filters", "profiles", "guards",   "records",  "pages",      "plain",
};
static_assert(sizeof kKindNames / sizeof *kKindNames == kKinds, "a name for each");

struct Shared {
    std::atomic<uint32_t> held[kMostPlaces][kModes];         // times
    std::atomic<uint32_t> held_at_fork[kMostPlaces][kModes]; // by a child within fork()
    std::atomic<uint64_t> operations, stalls, forks, threads, processes, milliseconds, runs;
    // The functions that were on the stack of a thread which came to a place, words of a bit each.
    std::atomic<uint64_t> callers[kMostPlaces][kMostFunctions / 64];
    // The functions that a kind of process has called, and the places that its threads came to.
    std::atomic<bool> called[kKinds][kMostFunctions];
    std::atomic<bool> came[kKinds][kMostPlaces];
    // Of the process that runs now.
    std::atomic<int> goal;             // a place that is to be held; -1: none
    std::atomic<uint32_t> told;        // its stalls so far
    std::atomic<uint32_t> last[kTold]; // the place and mode of the last ones
    std::atomic<bool> to_abort;        // it misuses the heap, and is to end by that
    std::atomic<bool> wants_crowd;     // a stall needs more threads than can have a heap
    char fault[300];                   // what is wrong
    char settings[300];                // its environment
};
Shared *shared;

bool WasHeld(int place, int mode) {
    return shared->held[place][mode] != 0 || shared->held_at_fork[place][mode] != 0;
}

[[noreturn]] __attribute__((format(printf, 1, 2))) void Fail(const char *format, ...) {
    static std::atomic<bool> failed;
    if (failed.exchange(true)) {
        for (;;) {
            PauseUs(1000000); // the first thread's words are the ones that count
        }
    }
    va_list args;
    va_start(args, format);
    vsnprintf(shared->fault, sizeof shared->fault, format, args);
    va_end(args);
    _exit(kFault);
}

// What a long run need not hold, by the variable that the instruction changes, and why.
// tools/stalls has found the variable in the instruction, or in the one that loads its address.
struct Exception {
    const char *target;
    const char *why;
};
constexpr Exception kExceptions[] = {
    {"os_linux_calls", "it counts a system call, for statistics alone; some are made on other "
                       "kernels, or in static programs"},
};

const Exception *ExceptionOf(const Place &place) {
    for (const Exception &exception : kExceptions) {
        if (place.target == exception.target) {
            return &exception;
        }
    }
    return nullptr;
}

// --- The process under test

struct Options {
    const char *flavour = nullptr;
    double minutes = 0; // 0: until most places have been held
    uint64_t seed = 0;
    const char *scratch = "/tmp";          // a folder for files of the library
    const char *held = nullptr;            // a file of what other runs have held; see Sums
    std::vector<std::pair<int, int>> only; // places and modes (-1: any), and no others
};
Options options;

struct Regime {
    size_t sizes[4];
    unsigned size_count; // 0: any size
    size_t most;         // of any size
    unsigned slots;
    unsigned trim_in, fork_in, batch_in, batch, life;
    unsigned
        huge_in; // one in so many blocks is of many MiB, or of a GiB and more if `far`; 0: none
    bool far;
    bool sweeps_halve;
    bool keeps;     // what is live: the heap is to grow, and sweeps only give back
    bool filters;   // the program says that it gives itself filters
    bool profiles;  // the program asks for a heap profile now and then
    bool guards;    // the program sets its handler of faults now and then
    bool misfits;   // blocks are freed with a size that is too small
    bool in_turn;   // one size between two sweeps
    bool most_free; // all threads but the first few only free what is there
};

// A place of the model for one block. Whoever makes it kBusy may use it.
struct Slot {
    enum State { kEmpty, kBusy, kLive };
    std::atomic<int> state;
    unsigned char *p;
    size_t size;
    size_t usable;
    uint64_t id;
};

constexpr unsigned kSlots = 1024;
constexpr unsigned kThreads = 48;

Slot slots[kSlots];
// What is done. One that is drawn is never changed or freed: an operation reads it several times.
std::atomic<const Regime *> drawn;
std::atomic<uint32_t> sweeps;    // asked for so far
std::atomic<uint64_t> next_id;   // of blocks
std::atomic<uint64_t> *progress; // operations
std::atomic<uint64_t> ends_at;   // no worker is to end by itself before so many operations
std::atomic<bool> stopping;      // workers are to end
std::atomic<uintptr_t> base;     // where the library lies; 0: not yet
bool null_allowed;               // there are limits: a call may fail
bool trims_exactly = true;       // everything can be given back
bool takes_misfits;              // a block may be freed with a size that is too small
bool refuses_much;               // memory outside of the heap: all large mappings, and no others
Kind kind;
pid_t process;

// In a forked child: its threads that use the heap.
std::atomic<unsigned> child_threads;

thread_local bool in_fork;
thread_local int stepping = -1;    // the place whose instruction runs under the trap flag
thread_local bool as_partner;      // the thread is held at a place that is not wanted itself
thread_local bool passing = false; // the thread is not to be held there

// The library's calls.
struct {
    void *(*malloc)(size_t);
    void (*free)(void *);
    void *(*calloc)(size_t, size_t);
    void *(*realloc)(void *, size_t);
    void *(*memalign)(size_t, size_t);
    int (*posix_memalign)(void **, size_t, size_t);
    size_t (*malloc_usable_size)(void *);
    int (*malloc_trim)(size_t);
    int (*malloc_info)(int, FILE *);
    void (*malloc_stats)();
    struct mallinfo2 (*mallinfo2)(void);
    int (*prctl)(int, unsigned long, unsigned long, unsigned long, unsigned long);
    long (*syscall)(long, ...);
    void (*stats)(struct hak_stats *);
    struct hak_heap *(*hak_heap_new)(void);
    void *(*hak_heap_alloc)(struct hak_heap *, size_t, size_t, bool);
    void (*hak_heap_delete)(struct hak_heap *);
    void (*hak_heap_destroy)(struct hak_heap *);
    void (*hak_heap_reset)(struct hak_heap *);
    const char *(*hak_flavour)();
    bool (*hak_profile_dump)(const char *);
    void (*sized_delete)(void *, size_t);
} lib;

template <typename Fn> void Find(uintptr_t start, const char *name, Fn *fn) {
    auto found = calls.find(name);
    if (found == calls.end()) {
        Fail("the library does not export %s", name);
    }
    *fn = reinterpret_cast<Fn>(start + found->second);
}

// --- Traps

enum { kNotArmed = kModes };
// A place is armed because it is to be held; because the function of such a place calls what it is
// in, or is what it is in: then threads are held there that are in this function; or because what
// others do meanwhile may make the race.
enum Role { kWanted, kLeads, kMeets };
std::atomic<int> armed[kMostPlaces];       // a Mode, or kNotArmed
std::atomic<int> role[kMostPlaces];        // a Role
std::atomic<unsigned> passes[kMostPlaces]; // of threads that were not held, since it was armed
std::atomic<int> goal;                     // the place that partners are to lead to; -1: none
std::atomic<unsigned> partners_most;       // threads held at partners at a time
std::atomic<bool> arming;                  // places that were held may be armed again
std::atomic<unsigned char *> code;         // the library's first address
std::atomic<unsigned> holding;             // threads that are held, or are about to be
std::atomic<unsigned> holders[2];          // of them, at a place that is wanted, and at partners
std::atomic<unsigned> holds;               // since the places were armed, at those wanted
std::atomic<unsigned> partner_holds;       // likewise, at partners
std::atomic<uint64_t> stall_seed;          // for how long
std::atomic<int> last_place{-1};           // where threads end that are to; -1: none
thread_local bool ends_in_record;

unsigned char Original(int place) {
    return image[FileOffset(places[static_cast<size_t>(place)].at)];
}

void WriteCode(int place, unsigned char byte) {
    volatile unsigned char *at = code.load() + places[static_cast<size_t>(place)].at;
    *at = byte;
}

// A trap at the start of a function tells that it is called, and is gone then.
bool IsProbed(size_t function) {
    uintptr_t at = functions[function].first;
    return options.minutes > 0 && options.only.empty() && function + 1 < functions.size() &&
           FindPlace(at) < 0 && !shared->called[kind][function];
}

void OnProbe(int function) {
    uintptr_t at = functions[static_cast<size_t>(function)].first;
    shared->called[kind][function] = true;
    volatile unsigned char *first = code.load() + at;
    *first = image[FileOffset(at)];
}

int OpenCode(struct dl_phdr_info *info, size_t, void *arg) {
    uintptr_t inside = reinterpret_cast<uintptr_t>(arg);
    const long page = sysconf(_SC_PAGESIZE);
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const Elf64_Phdr &segment = info->dlpi_phdr[i];
        uintptr_t start = info->dlpi_addr + segment.p_vaddr;
        if (segment.p_type != PT_LOAD || (segment.p_flags & PF_X) == 0 || inside < start ||
            inside - start >= segment.p_memsz) {
            continue;
        }
        uintptr_t from = start & ~static_cast<uintptr_t>(page - 1);
        if (mprotect(reinterpret_cast<void *>(from), start + segment.p_memsz - from,
                     PROT_READ | PROT_WRITE | PROT_EXEC) != 0) {
            snprintf(shared->fault, sizeof shared->fault,
                     "the code of a library cannot be written to here: %s", strerror(errno));
            _exit(kSkipped);
        }
        uintptr_t at = info->dlpi_addr;
        Find(at, "malloc", &lib.malloc);
        Find(at, "free", &lib.free);
        Find(at, "calloc", &lib.calloc);
        Find(at, "realloc", &lib.realloc);
        Find(at, "memalign", &lib.memalign);
        Find(at, "posix_memalign", &lib.posix_memalign);
        Find(at, "malloc_usable_size", &lib.malloc_usable_size);
        Find(at, "malloc_trim", &lib.malloc_trim);
        Find(at, "malloc_info", &lib.malloc_info);
        Find(at, "malloc_stats", &lib.malloc_stats);
        Find(at, "mallinfo2", &lib.mallinfo2);
        Find(at, "prctl", &lib.prctl);
        Find(at, "syscall", &lib.syscall);
        Find(at, "hak_stats", &lib.stats);
        Find(at, "hak_heap_new", &lib.hak_heap_new);
        Find(at, "hak_heap_alloc", &lib.hak_heap_alloc);
        Find(at, "hak_heap_delete", &lib.hak_heap_delete);
        Find(at, "hak_heap_destroy", &lib.hak_heap_destroy);
        Find(at, "hak_heap_reset", &lib.hak_heap_reset);
        Find(at, "hak_flavour", &lib.hak_flavour);
        Find(at, "hak_profile_dump", &lib.hak_profile_dump);
        Find(at, "_ZdlPvm", &lib.sized_delete);
        code = reinterpret_cast<unsigned char *>(at);
        base = at;
        return 1;
    }
    return 0;
}

// Makes the library's code writable and its calls known, from an address in it.
void Open(uintptr_t inside) {
    if (base == 0) {
        dl_iterate_phdr(OpenCode, reinterpret_cast<void *>(inside));
    }
}

void Tell(int place, int mode) {
    uint32_t n = shared->told++;
    shared->last[n % kTold] = static_cast<uint32_t>(place * kModes + mode);
}

// Arms a place anew that a thread has just been held at, or has passed.
void ArmAgain(int place, int mode) {
    if (arming) {
        armed[place] = mode;
        WriteCode(place, 0xCC);
    }
}

// What a thread has that is about to be held: one of few.
bool BeginHold(int place) {
    as_partner = role[place] != kWanted; // it may change until the hold is counted
    unsigned most = as_partner ? partners_most.load() : 1;
    unsigned seen = holders[as_partner];
    while (seen < most) {
        if (holders[as_partner].compare_exchange_weak(seen, seen + 1)) {
            holding++;
            return true;
        }
    }
    return false;
}

void EndHold() {
    holders[as_partner]--;
    holding--;
}

// In a child another thread may be there, or nobody; some steps are taken within fork() only.
void HoldInChild(int place, int mode) {
    if (in_fork) {
        shared->held_at_fork[place][mode]++;
        return;
    }
    static std::atomic<bool> one_is_held;
    if (child_threads < 2 || one_is_held.exchange(true)) {
        return;
    }
    uint64_t until = *progress + 20;
    while (*progress < until && child_threads > 1) {
        PauseUs(20);
    }
    shared->held[place][mode] += *progress >= until;
    one_is_held = false;
}

// Where a held thread stays: until the others have done some operations, and now and then have
// emptied the heap and given back all there is. Not for a time: under load they need longer.
void Hold(int place, int mode) {
    if (getpid() != process) {
        HoldInChild(place, mode);
        return;
    }
    Tell(place, mode);
    Random random(stall_seed + holds + partner_holds * 16);
    uint64_t phases = random.Below(4);
    for (uint64_t i = 0; i <= phases; i++) {
        uint64_t until = *progress + 1 + random.Below(uint64_t{1} << random.Below(9));
        while (*progress < until) {
            PauseUs(20);
        }
        if (i < phases) {
            sweeps++;
        }
    }
    shared->held[place][mode]++;
    shared->stalls++;
    if (as_partner) {
        if (++partner_holds < kPartnerHolds) {
            ArmAgain(place, options.only.empty() ? 1 - mode : mode);
        }
    } else {
        holds++;
        if (options.only.empty() && !WasHeld(place, 1 - mode)) {
            ArmAgain(place, 1 - mode);
        }
    }
    EndHold();
}

// The functions whose return addresses are on top of the stack, perhaps old ones.
Functions Callers(const greg_t *registers) {
    constexpr int kLooks = 64;
    const uintptr_t *stack = reinterpret_cast<const uintptr_t *>(registers[REG_RSP]);
    Functions callers;
    for (int i = 0; i < kLooks; i++) {
        int function = FindFunction(stack[i] - base);
        if (function >= 0) {
            callers.set(static_cast<size_t>(function));
        }
    }
    return callers;
}

// Whether a thread that has come to an armed place is to be held there.
bool IsToHold(int place, const greg_t *registers) {
    Functions callers = Callers(registers);
    for (size_t f = 0; f < functions.size(); f++) {
        if (callers[f]) {
            std::atomic<uint64_t> &word = shared->callers[place][f / 64];
            uint64_t bit = uint64_t{1} << f % 64;
            if ((word & bit) == 0) {
                word |= bit;
            }
        }
    }
    shared->came[kind][place] = true;
    if (role[place] != kLeads) {
        return true;
    }
    int wanted = places[static_cast<size_t>(goal.load())].function;
    return places[static_cast<size_t>(place)].function == wanted ||
           callers[static_cast<size_t>(wanted)];
}

constexpr greg_t kTrapFlag = 0x100;

// The thread has run an instruction alone.
void OnStep(greg_t *registers) {
    int place = stepping;
    stepping = -1;
    registers[REG_EFL] &= ~kTrapFlag;
    if (!passing) {
        Hold(place, kBehind);
    } else if (armed[place] != kNotArmed) {
        WriteCode(place, 0xCC);
    }
}

void OnTrap(int, siginfo_t *info, void *context) {
    int saved = errno;
    greg_t *registers = static_cast<ucontext_t *>(context)->uc_mcontext.gregs;
    if (stepping >= 0 && info->si_code == TRAP_TRACE) {
        OnStep(registers);
        errno = saved;
        return;
    }
    uintptr_t at = static_cast<uintptr_t>(registers[REG_RIP]) - 1;
    Open(at);
    int place = FindPlace(at - base);
    if (ends_in_record && place >= 0 && place == last_place) {
        syscall(SYS_exit, 0);
    }
    registers[REG_RIP] = static_cast<greg_t>(at);
    if (place < 0) {
        int function = FindFunction(at - base);
        if (function < 0 || functions[static_cast<size_t>(function)].first != at - base) {
            Fail("a trap at %zx, which is none of ours", static_cast<size_t>(at - base));
        }
        OnProbe(function);
        errno = saved;
        return;
    }
    WriteCode(place, Original(place));
    if (stepping >= 0) { // another thread has set the trap again before the instruction was run
        errno = saved;
        return;
    }
    bool child = getpid() != process;
    bool is_armed = armed[place] != kNotArmed;
    if (is_armed && !child && !(IsToHold(place, registers) && BeginHold(place))) {
        // The trap stays, unless all threads come by here all the time.
        passing = ++passes[place] < kMostPasses;
        if (passing) {
            stepping = place;
            registers[REG_EFL] |= kTrapFlag;
        }
    } else if (is_armed) {
        passing = false;
        switch (armed[place].exchange(kNotArmed)) {
        case kBefore:
            Hold(place, kBefore);
            break;
        case kBehind:
            stepping = place;
            registers[REG_EFL] |= kTrapFlag;
            break;
        default: // another thread was faster
            if (!child) {
                EndHold();
            }
        }
    }
    errno = saved;
}

// Races that a function loses only to a thread that is held in another one.
struct Meeting {
    const char *loser;
    const char *winner;
};
constexpr Meeting kMeetings[] = {
    // What is above the slabs of a claim is lowered before the claim raises it again.
    {"lower_top", "arena_claim_avail"},
    {"lower_top", "atomic_bitmap_claim_long_run"},
    {"lower_top", "finish_claim"},
    {"group_has_idle", "mark_meta"},
};

bool IsIn(int place, const char *function) {
    const std::string &name = places[static_cast<size_t>(place)].name;
    size_t length = strlen(function);
    return name.compare(0, length, function) == 0 && strchr(":.", name[length]) != nullptr;
}

// For a stall that only a race leads to, one that another thread wins while this one is held
// somewhere else: mostly in the same function, or in one that it calls. Holds threads there again
// and again, up to `most` at a time.
void DrawPartners(Random *random, unsigned most) {
    int count = static_cast<int>(places.size());
    std::vector<int> wanted;
    for (int i = 0; i < count; i++) {
        if (armed[i] != kNotArmed && ExceptionOf(places[static_cast<size_t>(i)]) == nullptr) {
            wanted.push_back(i);
        }
    }
    if (wanted.empty()) {
        return;
    }
    int given = shared->goal;
    bool is_given = given >= 0 && armed[given] != kNotArmed && !random->OneIn(4);
    goal = is_given ? given : wanted[random->Below(wanted.size())];
    size_t function = static_cast<size_t>(places[static_cast<size_t>(goal.load())].function);
    auto arm = [=](int place, Role as) {
        if (armed[place] == kNotArmed) {
            armed[place] = static_cast<int>(random->Below(kModes));
            role[place] = as;
        }
    };
    uint64_t in = 1 + random->Below(3); // one in so many of those that are called
    for (int i = 0; i < count; i++) {
        bool own = places[static_cast<size_t>(i)].function == static_cast<int>(function);
        bool called = (shared->callers[i][function / 64] >> function % 64 & 1) != 0;
        if (own ? !random->OneIn(3) : called && random->OneIn(in)) {
            arm(i, kLeads);
        }
    }
    if (random->OneIn(2)) {
        for (uint64_t n = 1 + random->Below(3); n > 0; n--) {
            arm(static_cast<int>(random->Below(places.size())), kMeets);
        }
    }
    for (const Meeting &meeting : kMeetings) {
        for (int i = 0; i < count && IsIn(goal, meeting.loser); i++) {
            if (IsIn(i, meeting.winner) && random->OneIn(2)) {
                arm(i, kMeets);
            }
        }
    }
    partners_most = 1 + static_cast<unsigned>(random->Below(most));
}

// Draws what is to be armed: all that was never held, or else a few of which not to have held many
// is likelier. `threads` are there to be held.
void DrawPlaces(Random *random, bool only_new, unsigned threads) {
    int count = static_cast<int>(places.size());
    for (int i = 0; i < count; i++) {
        armed[i] = kNotArmed;
        role[i] = kWanted;
    }
    unsigned most = std::min(kMostPartners, threads - 2); // one at least goes on
    partners_most = most;
    if (!options.only.empty()) {
        for (auto [place, mode] : options.only) {
            armed[place] = mode >= 0 ? mode : static_cast<int>(random->Below(kModes));
            role[place] = kMeets;
        }
        return;
    }
    bool any = false;
    for (int i = 0; i < count; i++) {
        bool misses[kModes] = {!WasHeld(i, kBefore), !WasHeld(i, kBehind)};
        if (misses[kBefore] || misses[kBehind]) {
            any = true;
            armed[i] = misses[kBefore] && misses[kBehind] ? static_cast<int>(random->Below(kModes))
                       : misses[kBefore]                  ? kBefore
                                                          : kBehind;
        }
    }
    if (any && (only_new || random->OneIn(8))) {
        if (!random->OneIn(4)) {
            DrawPartners(random, most);
        }
        return;
    }
    uint64_t wanted = 1 + random->Below(4);
    for (int i = 0; i < count; i++) {
        armed[i] = kNotArmed;
    }
    for (uint64_t n = 0; n < wanted; n++) {
        int best = static_cast<int>(random->Below(places.size()));
        int mode = static_cast<int>(random->Below(kModes));
        for (int tries = 0; tries < 2; tries++) {
            int other = static_cast<int>(random->Below(places.size()));
            if (shared->held[other][mode] < shared->held[best][mode]) {
                best = other;
            }
        }
        armed[best] = mode;
    }
}

void Arm() {
    holds = 0;
    partner_holds = 0;
    arming = true;
    for (size_t i = 0; i < places.size(); i++) {
        passes[i] = 0;
        if (armed[i] != kNotArmed) {
            WriteCode(static_cast<int>(i), 0xCC);
        }
    }
}

void Disarm() {
    arming = false;
    for (size_t i = 0; i < places.size(); i++) {
        armed[i] = kNotArmed;
        WriteCode(static_cast<int>(i), Original(static_cast<int>(i)));
    }
}

// --- Which memory is live: a bit for 16 bytes. Blocks of a GiB are known by their content only.

class Live {
  public:
    // Addresses are told apart by their lowest 44 bits: a window of the heap has at most 4 TiB.
    static constexpr uintptr_t kRange = uintptr_t{1} << 44;
    static bool Map() {
        void *p = mmap(nullptr, kRange / 16 / 8, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        bits_ = static_cast<std::atomic<uint64_t> *>(p);
        return p != MAP_FAILED;
    }
    // False if a byte of the block is live already.
    static bool Enter(const void *p, size_t size) {
        return Visit(p, size, [](std::atomic<uint64_t> *word, uint64_t mask) {
            return (word->fetch_or(mask) & mask) == 0;
        });
    }
    static bool Leave(const void *p, size_t size) {
        return Visit(p, size, [](std::atomic<uint64_t> *word, uint64_t mask) {
            return (word->fetch_and(~mask) & mask) == mask;
        });
    }

  private:
    template <typename Fn> static bool Visit(const void *p, size_t size, Fn fn) {
        uintptr_t from = reinterpret_cast<uintptr_t>(p) % kRange / 16;
        uintptr_t to = from + (std::max(size, size_t{1}) + 15) / 16;
        bool good = true;
        while (from < to) {
            uintptr_t here = std::min(to - from, 64 - from % 64);
            uint64_t mask = ~uint64_t{0} >> (64 - here) << (from % 64);
            good &= fn(&bits_[from / 64], mask);
            from += here;
        }
        return good;
    }
    static std::atomic<uint64_t> *bits_;
};
std::atomic<uint64_t> *Live::bits_;

// --- Operations

size_t DrawSize(Random *random) {
    const Regime &regime = *drawn;
    if (regime.size_count > 0) {
        // One size at a time: what a sweep empties is put to use for another.
        uint64_t which = regime.in_turn ? sweeps.load() : random->Below(regime.size_count);
        size_t size = regime.sizes[which % regime.size_count];
        return size - (random->OneIn(4) ? random->Below(size / 16 + 1) : 0);
    }
    if (regime.huge_in != 0 && random->OneIn(regime.huge_in)) {
        // More than the heap grows by at a time; more than it has in one group of SuperSlabs.
        static constexpr size_t kMany[] = {5 * kMiB, 9 * kMiB, 65 * kMiB, 130 * kMiB, 260 * kMiB};
        return regime.far ? kFar + random->Below(kFar / 4) : random->Of(kMany);
    }
    size_t most = size_t{1} << (4 + random->Below(21));
    return 1 + random->Below(std::min(most, regime.most));
}

// The block is the slot's from now on.
void Enter(Slot *slot, void *p, size_t size, size_t align) {
    if (reinterpret_cast<uintptr_t>(p) % std::max(align, size_t{16}) != 0) {
        Fail("a block of %zu bytes at %p is not aligned to %zu", size, p, align);
    }
    slot->p = static_cast<unsigned char *>(p);
    slot->size = size;
    slot->usable = lib.malloc_usable_size(p);
    slot->id = ++next_id;
    if (slot->usable < size) {
        Fail("a block of %zu bytes at %p has %zu usable ones", size, p, slot->usable);
    }
    if (size < kFar && !Live::Enter(p, slot->usable)) {
        Fail("a block of %zu bytes at %p lies over a live one", size, p);
    }
    Content::Write(slot->p, size, slot->id);
    slot->state = Slot::kLive;
}

void Check(const Slot *slot, const char *who) {
    if (!Content::Check(slot->p, slot->size, slot->size, slot->id)) {
        Fail("%s: the block of %zu bytes at %p has changed", who, slot->size,
             static_cast<void *>(slot->p));
    }
}

// The block is about to be given to the library.
void Leave(Slot *slot, const char *who) {
    Check(slot, who);
    if (slot->size < kFar && !Live::Leave(slot->p, slot->usable)) {
        Fail("%s: the block of %zu bytes at %p is partly free", who, slot->size,
             static_cast<void *>(slot->p));
    }
}

// A block of a private heap: of one that all threads share, or of one that is deleted at once and
// leaves its block behind.
void *AllocatePrivate(size_t size, size_t align, Random *random) {
    static std::atomic<struct hak_heap *> shared_heap;
    struct hak_heap *heap = shared_heap;
    if (heap == nullptr || random->OneIn(16)) {
        struct hak_heap *fresh = lib.hak_heap_new();
        if (fresh == nullptr) {
            return nullptr;
        }
        if (heap != nullptr) {
            void *p = lib.hak_heap_alloc(fresh, size, align, false);
            lib.hak_heap_delete(fresh);
            return p;
        }
        if (shared_heap.compare_exchange_strong(heap, fresh)) {
            heap = fresh;
        } else {
            lib.hak_heap_alloc(fresh, size, align, false);
            lib.hak_heap_destroy(fresh);
        }
    }
    return lib.hak_heap_alloc(heap, size, align, false);
}

void Allocate(Slot *slot, Random *random) {
    size_t size = DrawSize(random);
    size_t align = 1;
    void *p = nullptr;
    switch (size < 16 * kMiB ? random->Below(12) : 12) {
    case 0:
    case 1: {
        p = lib.calloc(size % 8 == 0 ? size / 8 : size, size % 8 == 0 ? 8 : 1);
        auto bytes = static_cast<const unsigned char *>(p);
        if (p != nullptr && !test_util::IsZero(bytes, size)) {
            Fail("calloc() of %zu bytes at %p is not zero", size, p);
        }
        break;
    }
    case 2:
        align = size_t{16} << random->Below(random->OneIn(16) ? 18 : 9);
        p = lib.memalign(align, size);
        break;
    case 3:
        align = size_t{16} << random->Below(9);
        p = AllocatePrivate(size, align, random);
        break;
    default:
        p = lib.malloc(size);
    }
    if (p != nullptr) {
        return Enter(slot, p, size, align);
    }
    if (!null_allowed && size < kFar) {
        Fail("no memory for %zu bytes", size);
    }
    slot->state = Slot::kEmpty;
}

// Gives back what a block of a GiB got when it was copied: there is not so much memory.
void Thin(unsigned char *p, size_t size) {
    uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    uintptr_t from = (reinterpret_cast<uintptr_t>(p) + page - 1) & ~(page - 1);
    uintptr_t to = (reinterpret_cast<uintptr_t>(p) + size) & ~(page - 1);
    madvise(reinterpret_cast<void *>(from), to - from, MADV_DONTNEED);
}

void Resize(Slot *slot, Random *random) {
    static std::atomic<bool> far; // one at a time
    bool is_far = slot->size >= kFar;
    if (drawn.load()->keeps || (is_far && (!random->OneIn(4) || far.exchange(true)))) {
        slot->state = Slot::kLive;
        return;
    }
    if (random->OneIn(50)) {
        if (lib.realloc(slot->p, size_t{1} << (43 + random->Below(20))) != nullptr) {
            Fail("realloc() to more than there is");
        }
        slot->state = Slot::kLive;
        return;
    }
    size_t size = DrawSize(random);
    if (is_far) {
        size = slot->size - kFar / 8 + random->Below(kFar / 6);
        size = std::max(size, kFar);
    } else if (random->OneIn(2)) {
        size = 1 + slot->size / 2 + random->Below(slot->size + slot->size / 4);
        size = std::min(size, 4 * kMiB);
    }
    size = std::max(size, size_t{1});
    Slot old = {{}, slot->p, slot->size, slot->usable, slot->id};
    Leave(slot, "realloc");
    void *p = lib.realloc(slot->p, size);
    if (p == nullptr) {
        if (!null_allowed && size < kFar) {
            Fail("no memory for realloc() to %zu bytes", size);
        }
        p = old.p;
        size = old.size;
    }
    size_t kept = std::min(size, old.size);
    if (!Content::Check(static_cast<unsigned char *>(p), kept, old.size, old.id)) {
        Fail("realloc() from %zu bytes at %p to %zu at %p has changed them", old.size,
             static_cast<void *>(old.p), size, p);
    }
    if (is_far) {
        Thin(static_cast<unsigned char *>(p), size);
        far = false;
    }
    Enter(slot, p, size, 1);
}

bool Take(Slot *slot, int state) {
    return slot->state.load(std::memory_order_relaxed) == state &&
           slot->state.compare_exchange_strong(state, Slot::kBusy);
}

void Release(Slot *slot, const char *who) {
    Leave(slot, who);
    lib.free(slot->p);
    slot->state = Slot::kEmpty;
}

void UseSlot(Slot *slot, Random *random) {
    if (Take(slot, Slot::kEmpty)) {
        Allocate(slot, random);
    } else if (Take(slot, Slot::kLive)) {
        switch (random->Below(8)) {
        case 0:
            Check(slot, "a look");
            if (lib.malloc_usable_size(slot->p) != slot->usable) {
                Fail("the usable size of the block at %p has changed",
                     static_cast<void *>(slot->p));
            }
            slot->state = Slot::kLive;
            break;
        case 1:
        case 2:
            Resize(slot, random);
            break;
        default:
            Release(slot, "free");
        }
    }
}

// Frees all blocks, or half of them, and gives back what can be.
void Sweep(Random *random) {
    const Regime &regime = *drawn;
    for (Slot &slot : slots) {
        if (!regime.keeps && (!regime.sweeps_halve || random->OneIn(2)) &&
            Take(&slot, Slot::kLive)) {
            Release(&slot, "free of all");
        }
    }
    lib.malloc_trim(0);
}

// Many blocks of a size come and go: the caches of that size become deep.
void Batch(Random *random) {
    static constexpr unsigned kMost = 4000;
    const Regime &regime = *drawn;
    unsigned count = std::min(regime.batch, kMost);
    // The program's own memory counts for RLIMIT_DATA, too.
    std::unique_ptr<Slot[]> some(new (std::nothrow) Slot[count]);
    if (some == nullptr) {
        return;
    }
    size_t size = std::min(DrawSize(random), size_t{512});
    for (int times = 0; times < 2; times++) {
        for (unsigned i = 0; i < count; i++) {
            Slot &slot = some[i];
            slot.state = Slot::kEmpty;
            if (void *p = lib.malloc(size)) {
                Enter(&slot, p, size, 1);
            } else if (!null_allowed) {
                Fail("no memory for a batch of %zu bytes", size);
            }
        }
        for (unsigned i = 0; i < count; i++) {
            Slot &slot = some[i];
            if (slot.state == Slot::kLive && regime.misfits && random->OneIn(16)) {
                // As C++ does that was told the size of a base class.
                Leave(&slot, "delete of a batch");
                lib.sized_delete(slot.p, size / 2);
            } else if (slot.state == Slot::kLive) {
                Release(&slot, "free of a batch");
            }
        }
    }
}

// What no allocator can serve, in all the ways that there are to find that out.
void AskTooMuch(Random *random) {
    void *p = nullptr;
    if (lib.malloc(size_t{1} << (43 + random->Below(20))) != nullptr) {
        Fail("malloc() of more than there is");
    }
    size_t align = size_t{1} << (43 + random->Below(4));
    if (lib.posix_memalign(&p, align, 64 + random->Below(kMiB)) == 0) {
        Fail("posix_memalign() of an alignment of %zu", align);
    }
}

void Look(Random *random, FILE *sink) {
    struct hak_stats stats;
    switch (random->Below(4)) {
    case 0:
        lib.malloc_stats();
        break;
    case 1:
        lib.mallinfo2();
        break;
    case 2:
        if (sink != nullptr) {
            lib.malloc_info(0, sink);
        }
        break;
    default:
        lib.stats(&stats);
    }
}

void OneOperation(Random *random);

// A private heap comes and goes with its blocks: small ones, of which some are free by then, and
// large ones, at times more than the heap has room to note at first.
void UsePrivateHeap(Random *random) {
    struct hak_heap *heap = lib.hak_heap_new();
    if (heap == nullptr) {
        return;
    }
    static std::atomic<bool> full; // one at a time: it takes half a GiB
    constexpr size_t kLarge = 20000;
    unsigned small = static_cast<unsigned>(random->Below(40));
    unsigned large = static_cast<unsigned>(random->Below(3));
    bool fills = random->OneIn(20) && !full.exchange(true);
    if (fills) {
        large = 9000;
    }
    for (unsigned i = 0; i < small + large; i++) {
        size_t size = i < small ? 1 + random->Below(8000) : kLarge;
        void *p = lib.hak_heap_alloc(heap, size, 16, false);
        if (i < small && random->OneIn(2)) {
            lib.free(p);
        } else if (p == nullptr) {
            break;
        }
    }
    if (large == 0 && random->OneIn(2)) {
        small = 1 + static_cast<unsigned>(random->Below(8000));
        lib.free(lib.hak_heap_alloc(heap, small, 16, false));
        lib.hak_heap_reset(heap);
    }
    lib.hak_heap_destroy(heap);
    if (fills) {
        full = false;
    }
    // Chunks whose blocks are free already go when their heap is deleted.
    heap = lib.hak_heap_new();
    if (heap != nullptr) {
        lib.free(lib.hak_heap_alloc(heap, 1 + random->Below(8000), 16, false));
        lib.hak_heap_delete(heap);
    }
}

// Hands system calls to a filter, for this thread and those that it starts. Nothing happens in a
// sandbox that does not allow that.
template <size_t n> void Install(struct sock_filter (&filter)[n]) {
    struct sock_fprog program = {n, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0) {
        null_allowed = true;
    }
}

// The thread is about to enter strict mode, which then fails, because it has a filter; the library
// takes it that the thread can make no system calls any more.
void PretendStrict(bool by_prctl) {
    struct sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    Install(allow);
    if (!null_allowed) {
        return;
    }
    if (by_prctl) {
        lib.prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0);
    } else {
        lib.syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 0, nullptr);
    }
}

// The program is about to give itself a filter, which then fails; the library takes it that it has.
void PretendFilter(Random *random) {
    if (!drawn.load()->filters) {
        return;
    }
    constexpr uintptr_t kNoFilter = 8;
    switch (random->Below(8)) {
    case 0:
        lib.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        break;
    case 1:
        lib.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, kNoFilter, 0, 0);
        break;
    case 2:
        lib.syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        break;
    case 3:
        lib.syscall(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, kNoFilter, 0, 0);
        break;
    case 4:
        lib.prctl(PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0);
        lib.prctl(PR_SET_TSC, PR_TSC_ENABLE, 0, 0, 0);
        break;
    case 5:
    case 6:
        PretendStrict(random->OneIn(2));
        break;
    default:
        lib.syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, kNoFilter);
    }
}

void OnFault(int signal, siginfo_t *info, void *context);

// The heap's window lies between 64 and 80 TiB.
bool IsInHeap(const void *p) {
    return reinterpret_cast<uintptr_t>(p) >> 44 == 4;
}

void Catch(int signal, void (*handler)(int, siginfo_t *, void *)) {
    struct sigaction act = {};
    act.sa_sigaction = handler;
    // A handler's own fault is told of, too.
    act.sa_flags = SA_SIGINFO | SA_RESTART | SA_NODEFER;
    sigaction(signal, &act, nullptr);
}

// A block with little in it grows to where it has to move.
void GrowSparse(Random *random) {
    size_t size = 128 * kKiB + random->Below(768 * kKiB);
    auto p = static_cast<unsigned char *>(lib.calloc(1, size));
    if (p == nullptr) {
        return;
    }
    uint64_t id = ++next_id;
    Content::Write(p, 100, id);
    auto moved = static_cast<unsigned char *>(lib.realloc(p, 2 * size));
    if (moved != nullptr) {
        if (!Content::Check(moved, 100, 100, id) || !test_util::IsZero(moved + 100, size - 100)) {
            Fail("realloc() from %zu bytes at %p to twice as many at %p has changed them", size,
                 static_cast<void *>(p), static_cast<void *>(moved));
        }
        p = moved;
    }
    lib.free(p);
}

// What the program does now and then in the kinds of processes that are there for it.
void DoWhatIsRare(Random *random) {
    const Regime &regime = *drawn;
    if (random->OneIn(4)) {
        GrowSparse(random);
    }
    PretendFilter(random);
    if (regime.profiles && random->OneIn(20)) {
        lib.hak_profile_dump(nullptr);
    }
    if (regime.guards) {
        Catch(SIGSEGV, OnFault); // the library puts its own in front again
    }
}

void *OfChild(void *arg) {
    Random random(reinterpret_cast<uintptr_t>(arg));
    child_threads++;
    for (int i = 0; i < 30; i++) {
        OneOperation(&random);
    }
    child_threads--;
    return nullptr;
}

// All that was live is as it was, and the heap can be used, whatever the parent's threads were at.
[[noreturn]] void BeChild(Random *random) {
    for (Slot &slot : slots) {
        if (slot.state == Slot::kLive) {
            Check(&slot, "in a forked child");
        }
    }
    pthread_t thread;
    bool threads =
        random->OneIn(2) && pthread_create(&thread, nullptr, OfChild,
                                           reinterpret_cast<void *>(random->Next() | 1)) == 0;
    OfChild(reinterpret_cast<void *>(random->Next() | 1));
    if (threads) {
        pthread_join(thread, nullptr);
    }
    Sweep(random);
    _exit(0);
}

void Fork(Random *random) {
    in_fork = true;
    pid_t child = fork();
    in_fork = false;
    if (child == 0) {
        static std::atomic<uint64_t> own_progress;
        progress = &own_progress;
        static Regime without_forks;
        without_forks = *drawn;
        without_forks.fork_in = 0;
        drawn = &without_forks;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        BeChild(random);
    }
    if (child < 0) {
        Fail("no fork: %s", strerror(errno));
    }
    int status = -1;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (status != 0) {
        if (shared->fault[0] == '\0') {
            Fail("a forked child ended with status %#x", static_cast<unsigned>(status));
        }
        _exit(kFault);
    }
    shared->forks++;
}

void OneOperation(Random *random) {
    const Regime &regime = *drawn;
    if (regime.fork_in != 0 && random->OneIn(regime.fork_in)) {
        Fork(random);
    } else if (random->OneIn(regime.trim_in)) {
        lib.malloc_trim(0);
    } else if (random->OneIn(regime.batch_in)) {
        Batch(random);
    } else if (random->OneIn(1000)) {
        AskTooMuch(random);
    } else if (random->OneIn(300)) {
        UsePrivateHeap(random);
    } else if (random->OneIn(100)) {
        DoWhatIsRare(random);
    } else {
        UseSlot(&slots[random->Below(regime.slots)], random);
    }
    progress->fetch_add(1, std::memory_order_relaxed);
}

// The heap of a thread that does only this has no layers of a front behind its caches.
void OnlyFree(Random *random) {
    uint64_t first = random->Next();
    for (unsigned i = 0; i < kSlots; i++) {
        Slot *slot = &slots[(first + i) % kSlots];
        if (Take(slot, Slot::kLive)) {
            Release(slot, "free");
            break;
        }
    }
    PauseUs(20);
    progress->fetch_add(1, std::memory_order_relaxed);
}

// --- Threads

constexpr unsigned kFewest = 3; // threads that do all kinds of operations

struct Worker {
    enum State { kNone, kRuns, kEnded };
    std::atomic<int> state;
    std::atomic<bool> endless; // has seen that it is not to end
    pthread_t thread;
    uint64_t seed;
};
Worker workers[kThreads];
pthread_key_t at_end;
FILE *sink; // what malloc_info() writes to

// After the library's own destructor has run, and so once more in the rounds that follow.
void AtEnd(void *arg) {
    uintptr_t round = reinterpret_cast<uintptr_t>(arg);
    Random random(*progress + round);
    for (int i = 0; i < 4; i++) {
        UseSlot(&slots[random.Below(drawn.load()->slots)], &random);
    }
    if (round < PTHREAD_DESTRUCTOR_ITERATIONS - 1) {
        pthread_setspecific(at_end, reinterpret_cast<void *>(round + 1));
    }
}

void *Work(void *arg) {
    Worker *me = static_cast<Worker *>(arg);
    Random random(me->seed);
    while (base == 0) {
        PauseUs(20);
    }
    uint32_t swept = sweeps;
    const Regime &regime = *drawn;
    bool frees = regime.most_free && me - workers >= kFewest;
    if (!frees && random.OneIn(3)) {
        pthread_setspecific(at_end, reinterpret_cast<void *>(1));
    }
    uint64_t life = 1 + random.Below(regime.life);
    while (!stopping && (life > 0 || *progress < ends_at)) {
        life -= life > 0;
        if (ends_at == UINT64_MAX) {
            me->endless = true;
        }
        if (frees) {
            OnlyFree(&random);
        } else {
            OneOperation(&random);
        }
        if (swept != sweeps) {
            swept = sweeps;
            Sweep(&random);
        }
        if (random.OneIn(3000)) {
            Look(&random, sink);
        }
    }
    me->state = Worker::kEnded;
    return nullptr;
}

// The number of lines of a file, or of the entries of a folder of /proc.
size_t CountLines(const char *path) {
    size_t count = 0;
    if (FILE *in = fopen(path, "r")) {
        for (int c; (c = fgetc(in)) != EOF;) {
            count += c == '\n';
        }
        fclose(in);
    }
    if (DIR *folder = opendir(path)) {
        while (readdir(folder) != nullptr) {
            count++;
        }
        closedir(folder);
    }
    return count;
}

// Where others start thousands of threads at the time, the machine may have no room for one more
// (kernel.pid_max), for as long as these run. A fault's report tells what this process has itself.
void StartThread(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg) {
    constexpr int kTries = 6000;
    int error = EAGAIN;
    for (int i = 0; i < kTries && error == EAGAIN; i++) {
        error = pthread_create(thread, attr, fn, arg);
        if (error == EAGAIN) {
            PauseUs(10000);
        }
    }
    if (error != 0) {
        char load[64] = "";
        if (FILE *in = fopen("/proc/loadavg", "r")) {
            load[fread(load, 1, sizeof load - 1, in)] = '\0';
            fclose(in);
        }
        Fail("no thread: %s; this process has %zu threads and %zu mappings; /proc/loadavg: %s",
             strerror(error), CountLines("/proc/self/task") - 2, CountLines("/proc/self/maps"),
             load);
    }
}

void StartWorkers(unsigned count, Random *random) {
    for (unsigned i = 0; i < count; i++) {
        if (workers[i].state == Worker::kNone) {
            workers[i].seed = random->Next();
            workers[i].state = Worker::kRuns;
            workers[i].endless = false;
            StartThread(&workers[i].thread, nullptr, Work, &workers[i]);
            shared->threads++;
        }
    }
}

// A thread that has ended may be held in its destructors: then nobody waits for it.
void JoinEnded() {
    for (Worker &worker : workers) {
        if (worker.state == Worker::kEnded && pthread_tryjoin_np(worker.thread, nullptr) == 0) {
            worker.state = Worker::kNone;
        }
    }
}

// --- One process

struct Plan {
    bool background, tides, moves, trims, huge, grows, far, crowd, misuses, exits_busy, filters;
    bool loses_lanes; // the recorder's
    unsigned threads, rounds;
    double seconds; // of a long run: no more rounds after these
};

void DrawRegime(Random *random, const Plan &plan) {
    Regime r = {};
    r.slots = 1u << (2 + random->Below(6));
    r.trim_in = static_cast<unsigned>(20 << random->Below(6));
    r.fork_in = 3000;
    r.batch_in = 1u << 20;
    r.batch = 300;
    r.life = static_cast<unsigned>(20 << random->Below(9));
    r.sweeps_halve = random->OneIn(3);
    r.most = 512 * kKiB;
    constexpr uint64_t kWords = 3, kRuns = 5, kMany = 6;
    switch (plan.moves              ? kRuns
            : plan.huge || plan.far ? kMany
            : kind == Kind::kPages  ? kWords
                                    : random->Below(10)) {
    case 0:
    case 1:
    case 2:
    case 8:
    case 9:
        // A few blocks a slab: slabs change hands all the time. Some share bitmaps' places.
        r.size_count = static_cast<unsigned>(2 + random->Below(3));
        for (unsigned i = 0; i < r.size_count; i++) {
            static constexpr size_t kFew[] = {32768, 27648, 22528, 18432, 32768, 18432,
                                              16384, 13824, 11264, 9216,  8192,  4608};
            r.sizes[i] = random->Of(kFew);
        }
        r.slots = std::min(r.slots, 16u);
        r.trim_in = static_cast<unsigned>(3 << random->Below(6));
        r.in_turn = !random->OneIn(4);
        break;
    case kWords:
        // Words of 64 and a few more or less.
        r.size_count = static_cast<unsigned>(2 + random->Below(3));
        for (unsigned i = 0; i < r.size_count; i++) {
            static constexpr size_t kSome[] = {1024, 960, 896, 832, 1152, 512, 480, 2048, 64, 32};
            r.sizes[i] = random->Of(kSome);
        }
        r.slots = 512;
        r.batch_in = 50;
        r.batch = 100;
        break;
    case 4:
        r.size_count = 1 + static_cast<unsigned>(random->Below(2));
        r.sizes[0] = 16 + random->Below(500);
        r.sizes[1] = 16 + random->Below(100);
        r.batch_in = 100;
        r.batch = 3000;
        break;
    case kRuns:
        // Runs of slabs, which grow, shrink and move.
        r.size_count = static_cast<unsigned>(2 + random->Below(3));
        for (unsigned i = 0; i < r.size_count; i++) {
            r.sizes[i] = 33 * kKiB + random->Below(size_t{1} << (15 + random->Below(7)));
            if (kind == kFewMaps) { // what is moved by the page table
                r.sizes[i] = kMiB + random->Below(3 * kMiB);
            }
        }
        r.slots = std::min(r.slots, 24u);
        break;
    case kMany:
        r.huge_in = 100;
        r.slots = std::min(r.slots, 16u);
        if (plan.huge || plan.far) {
            r.huge_in = 1 + static_cast<unsigned>(random->Below(6));
            r.slots = plan.far ? 4 : 8;
            r.trim_in = static_cast<unsigned>(3 << random->Below(5));
            r.fork_in = plan.far ? 300 : 3000;
        }
        r.far = plan.far;
        if (plan.grows) {
            r.huge_in = 1;
            r.slots = 256;
            r.trim_in = 100;
            r.keeps = true;
        }
        break;
    default:
        break;
    }
    if (plan.trims) {
        r.trim_in = static_cast<unsigned>(3 << random->Below(4));
    }
    if (kind == kPages) {
        // Whole pages are free, and slabs are not.
        r.batch_in = 20;
        r.batch = 400;
        r.trim_in = static_cast<unsigned>(5 << random->Below(4));
        r.sweeps_halve = !random->OneIn(4);
        r.misfits = takes_misfits;
    }
    if (kind == kProfiles && (refuses_much || random->OneIn(2))) {
        // Many live blocks at a time, all of them samples perhaps, and more than there is room for.
        r.size_count = 0;
        r.batch_in = 50;
        r.batch = 3000;
    }
    if (kind == kFewMaps && random->OneIn(2)) {
        r.trim_in = 2000; // what was moved and is free keeps its pages
    }
    // In a process where memory is charged for, some was given back before.
    r.filters = kind == kFilters || (plan.filters && (kind != kCharges || sweeps > 1));
    r.profiles = kind == kProfiles;
    r.guards = kind == kGuards;
    if (plan.tides && random->OneIn(2)) {
        r.most_free = true;
        r.slots = 256;
        r.life = 40;
    }
    if (plan.crowd && drawn != nullptr) {
        r.fork_in = 0; // a child would look at each of the heaps
        r.life = 50;
    }
    drawn = new Regime(r);
}

// As the descriptor of an anonymous mmap(), or the fourth argument of mprotect(): the call is to be
// made.
constexpr int kReal = -77;

// What a fault's report says beside the settings.
void Note(const char *what) {
    size_t length = strlen(shared->settings);
    snprintf(shared->settings + length, sizeof shared->settings - length,
             "(%s for half of the heap) ", what);
}

// Makes a system call end otherwise for a half of the heap's addresses: the half whose bit number
// `shift` is set.
void Intercept(int call, unsigned shift, uint32_t action) {
    auto offset = [](size_t member, bool high) {
        return static_cast<uint32_t>(offsetof(struct seccomp_data, args) + member * 8 + 4 * high);
    };
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(call), 0, 8),
        // The heap's window lies between 64 and 80 TiB.
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset(0, true)),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xfffff000),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x4000, 0, 5),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset(0, false)),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 1u << shift, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset(4, false)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(kReal), 1, 0),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    Install(filter);
}

// A filter that the library has not seen coming refuses to make regions of the window writable, but
// for the first one. Every second page of them: the first lies at an even one.
void RefuseRegions() {
    constexpr unsigned kPage = 12; // bits of an address
    Intercept(SYS_mprotect, kPage, SECCOMP_RET_ERRNO | EPERM);
    Note("mprotect() is refused");
}

// Traps an anonymous mmap(), or an mprotect(), of addresses that are not the heap's, but for those
// that a trap makes itself.
void InterceptOutside(int call) {
    const size_t mark = call == SYS_mmap ? 4 : 3;
    const uint32_t value = static_cast<uint32_t>(call == SYS_mmap ? -1 : kReal);
    const uint8_t otherwise = call == SYS_mmap ? 0 : 1;
    auto offset = [](size_t member, bool high) {
        return static_cast<uint32_t>(offsetof(struct seccomp_data, args) + member * 8 + 4 * high);
    };
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(call), 0, 6),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset(0, true)),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xfffff000),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x4000, 3, 0),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset(mark, false)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, otherwise, static_cast<uint8_t>(1 - otherwise)),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    Install(filter);
}

constexpr uint32_t kRealOpen = 0x5ea1; // as the mode of an openat() that creates nothing

// Traps openat(), but for those that a trap makes itself.
void InterceptOpen() {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(SYS_openat), 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args) + (3 * 8)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kRealOpen, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    Install(filter);
}

// Traps the question what the limit on data is.
void InterceptLimits() {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(SYS_prlimit64), 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args) + 8),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, RLIMIT_DATA, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    Install(filter);
}

// What the kernel is that trapped calls are made to.
enum class Kernel {
    kOld,   // does not know MAP_FIXED_NOREPLACE, and takes the address for a hint
    kLossy, // unmaps a range before it finds that it cannot map it afresh, and maps it later
    kTaken, // has mapped something of others' there, or refuses memory
};
Kernel kernel;

long MapTrapped(const greg_t *registers) {
    size_t size = static_cast<size_t>(registers[REG_RSI]);
    long flags = registers[REG_R10];
    if (kernel == Kernel::kOld && (flags & MAP_FIXED) == 0) {
        flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        return syscall(SYS_mmap, nullptr, size, registers[REG_RDX], flags, -1, 0);
    }
    static std::atomic<uint64_t> count;
    if (kernel == Kernel::kTaken && (flags & MAP_FIXED) == 0) {
        Random random(++count);
        if (!random.OneIn(3)) {
            errno = random.OneIn(4) ? ENOMEM : EEXIST;
            return -1;
        }
    }
    // A call that replaces a mapping loses it, and so the one that is made to mend that fails too.
    static thread_local greg_t lost;
    bool mends = registers[REG_RDI] == lost;
    lost = 0;
    if (kernel == Kernel::kLossy &&
        (mends || Random(++count).OneIn((flags & MAP_FIXED) != 0 ? 2 : 16))) {
        if ((flags & MAP_FIXED) != 0) {
            syscall(SYS_munmap, registers[REG_RDI], size);
            lost = registers[REG_RDI];
        }
        errno = ENOMEM;
        return -1;
    }
    return syscall(SYS_mmap, registers[REG_RDI], size, registers[REG_RDX], flags, kReal, 0);
}

// The library asks for memory outside of the heap: it is refused now and then.
bool IsRefused(const greg_t *registers) {
    constexpr int kLooks = 4; // at what is on top of the stack: libc's function may keep something
    const uintptr_t *stack = reinterpret_cast<const uintptr_t *>(registers[REG_RSP]);
    bool ours = base != 0 && FindFunction(static_cast<uintptr_t>(registers[REG_RIP]) - base) >= 0;
    for (int i = 0; i < kLooks; i++) {
        ours = ours || (base != 0 && FindFunction(stack[i] - base) >= 0);
    }
    constexpr greg_t kMuch = 256 << 10;
    static std::atomic<uint64_t> count;
    return ours && (refuses_much ? registers[REG_RSI] >= kMuch : Random(++count).OneIn(2));
}

long CallOutside(long call, const greg_t *registers) {
    if (IsRefused(registers)) {
        errno = ENOMEM;
        return -1;
    }
    if (call == SYS_mprotect) {
        return syscall(call, registers[REG_RDI], registers[REG_RSI], registers[REG_RDX], kReal);
    }
    return syscall(call, registers[REG_RDI], registers[REG_RSI], registers[REG_RDX],
                   registers[REG_R10], kReal, 0);
}

// An openat() of a file that tells of the kernel's limits: it says something else.
const char *lying_file;
const char *lie;

long OpenTrapped(const greg_t *registers) {
    const char *path = reinterpret_cast<const char *>(registers[REG_RSI]);
    if (strcmp(path, lying_file) != 0) {
        // Files that exist, so that no mode is needed.
        return syscall(SYS_openat, registers[REG_RDI], path, registers[REG_RDX] & ~O_CREAT,
                       kRealOpen);
    }
    int fd = memfd_create("lie", MFD_CLOEXEC);
    ssize_t length = static_cast<ssize_t>(strlen(lie));
    if (fd >= 0 && (write(fd, lie, strlen(lie)) != length || lseek(fd, 0, SEEK_SET) != 0)) {
        Fail("no file that says %s: %s", lie, strerror(errno));
    }
    return fd;
}

void OnTrappedCall(int, siginfo_t *info, void *context) {
    int saved = errno;
    greg_t *registers = static_cast<ucontext_t *>(context)->uc_mcontext.gregs;
    long result = 0;
    switch (info->si_syscall) {
    case SYS_openat:
        result = OpenTrapped(registers);
        break;
    case SYS_prlimit64:
        *reinterpret_cast<struct rlimit *>(registers[REG_R10]) = {12 * kMiB, RLIM_INFINITY};
        break;
    case SYS_mprotect:
        result = CallOutside(SYS_mprotect, registers);
        break;
    default:
        result = (registers[REG_RDI] >> 44) == 4 ? MapTrapped(registers)
                                                 : CallOutside(SYS_mmap, registers);
    }
    registers[REG_RAX] = result == -1 ? -errno : result;
    errno = saved;
}

void Set(const char *name, const char *value) {
    setenv(name, value, 1);
    size_t length = strlen(shared->settings);
    snprintf(shared->settings + length, sizeof shared->settings - length, "%s=%s ", name, value);
}

// Another kernel, or limits that this one does not have: for a half of the heap.
void InterceptAs(Kind way, Random *random, Plan *plan) {
    constexpr unsigned kSlab = 16, kSuperSlab = 21, kChunk = 26; // bits of an address
    constexpr uint32_t kFails = SECCOMP_RET_ERRNO | ENOMEM;
    const char *what = "";
    switch (way) {
    case kPurges:
        what = "madvise() fails";
        plan->tides = random->OneIn(2);
        plan->threads = plan->tides ? kThreads : plan->threads;
        Intercept(SYS_madvise, kSlab, kFails);
        break;
    case kCommits:
        what = "mprotect() fails";
        Intercept(SYS_mprotect, kSuperSlab, kFails);
        break;
    case kMaps:
        what = "mmap() fails";
        Intercept(SYS_mmap, kChunk, kFails);
        plan->moves = true;
        break;
    case kMoves:
        what = "mremap() fails";
        Intercept(SYS_mremap, kSlab, kFails);
        plan->moves = true;
        break;
    case kOldMaps:
        what = "mremap() fails, and mmap() takes addresses for hints";
        kernel = Kernel::kOld;
        Intercept(SYS_mremap, kSlab, kFails);
        Intercept(SYS_mmap, kChunk, SECCOMP_RET_TRAP);
        plan->moves = true;
        break;
    case kFars:
        // No GiB in one piece there.
        what = "mmap() fails";
        Intercept(SYS_mmap, kChunk, kFails);
        plan->far = true;
        break;
    case kLosses:
        what = "mmap() over a mapping fails, and loses it";
        kernel = Kernel::kLossy;
        Intercept(SYS_mmap, kSlab, SECCOMP_RET_TRAP);
        plan->moves = plan->trims = true;
        break;
    case kTight:
        InterceptLimits();
        what = "RLIMIT_DATA is 12 MiB";
        if (random->OneIn(2)) {
            Set("HAKMEM_LIMIT", random->OneIn(2) ? "1M" : "4M");
        }
        if (random->OneIn(2)) {
            what = "RLIMIT_DATA is 12 MiB, and mprotect() fails";
            Intercept(SYS_mprotect, kSuperSlab, kFails);
        }
        if (random->OneIn(3)) {
            what = "RLIMIT_DATA is 12 MiB, and mmap() fails";
            Intercept(SYS_mmap, kSuperSlab, kFails);
        }
        break;
    case kTaken:
        what = "others have mapped something, or mmap() fails";
        kernel = Kernel::kTaken;
        Intercept(SYS_mmap, kSuperSlab, SECCOMP_RET_TRAP);
        plan->huge = true;
        break;
    case kFewMaps:
        what = "max_map_count is 700";
        lying_file = "/proc/sys/vm/max_map_count";
        lie = "700\n";
        InterceptOpen();
        plan->moves = true;
        break;
    default:
        what = "overcommit_memory is 2";
        lying_file = "/proc/sys/vm/overcommit_memory";
        lie = "2\n";
        InterceptOpen();
        if (random->OneIn(2)) {
            Set("HAKMEM_THP", "1");
        }
        if (random->OneIn(2)) {
            plan->moves = plan->trims = true;
            what = "overcommit_memory is 2, and mmap() over a mapping fails, and loses it";
            kernel = Kernel::kLossy;
            Intercept(SYS_mmap, kSuperSlab, SECCOMP_RET_TRAP);
        }
    }
    Note(what);
}

Plan DrawPlan(Random *random) {
    Plan plan = {};
    shared->settings[0] = '\0';
    static constexpr const char *kDecay[] = {"0", "0", "1", "1", "500", "-1"};
    plan.background = random->OneIn(4);
    plan.tides = random->OneIn(4);
    plan.threads = 3 + static_cast<unsigned>(random->Below(random->OneIn(2) ? 4 : 15));
    if (plan.tides) {
        plan.threads = kThreads;
    }
    plan.rounds = options.minutes == 0 ? 8 : 40;
    plan.seconds = 2;
    Set("HAKMEM_DECAY_MS", plan.background ? "1" : random->Of(kDecay));
    if (plan.background) {
        Set("HAKMEM_BACKGROUND", "1");
    }
    static constexpr const char *kTwo[] = {"0", "1", "2"};
    Set("HAKMEM_THP", random->Of(kTwo));
    Set("HAKMEM_TINY_FRONT_C23_SIMPLE", random->OneIn(3) ? "0" : "1");
    Set("HAKMEM_TINY_FRONT_C23_REFILL", random->OneIn(2) ? "0" : "1");
    char text[100];
    switch (kind) {
    case kLimits: {
        static constexpr const char *kSome[] = {"1M", "4M", "16M", "50%", "50%"};
        Set("HAKMEM_LIMIT", random->Of(kSome));
        null_allowed = true;
        break;
    }
    case kStatistics:
        Set("HAKMEM_STATS", "1");
        break;
    case kHuge:
        plan.huge = true;
        break;
    case kGrows:
        plan.huge = plan.grows = true;
        // A sandbox that is entered as the heap grows: a thread that gives regions rights refuses
        // memory to others.
        plan.filters = null_allowed = random->OneIn(3);
        Set("HAKMEM_SANDBOX", plan.filters ? "2" : random->OneIn(2) ? "0" : "1");
        if (!plan.filters && random->OneIn(2)) {
            RefuseRegions();
        }
        break;
    case kProfiles: {
        static constexpr const char *kRates[] = {"1", "100", "4K"};
        snprintf(text, sizeof text, "%s/%%p.profile", options.scratch);
        Set("HAKMEM_PROFILE", text);
        refuses_much = random->OneIn(2);
        Set("HAKMEM_PROFILE_RATE", refuses_much ? "1" : random->Of(kRates));
        Set("HAKMEM_PROFILE_EVERY", "4M");
        Set("HAKMEM_PROFILE_SECONDS", "1");
        if (refuses_much || random->OneIn(2)) {
            InterceptOutside(SYS_mmap);
            InterceptOutside(SYS_mprotect);
        }
        break;
    }
    case kGuards: {
        static constexpr const char *kRates[] = {"1", "3", "30"};
        Set("HAKMEM_GUARD", random->Of(kRates));
        if (random->OneIn(3)) {
            InterceptOutside(SYS_mprotect);
        }
        break;
    }
    case kRecords:
        // At times there is no such folder, and the recording ends as it begins.
        snprintf(text, sizeof text, "%s%s/%%p.record", options.scratch,
                 random->OneIn(4) ? "/none" : "");
        Set("HAKMEM_RECORD", text);
        plan.loses_lanes = options.minutes > 0 && random->OneIn(3);
        break;
    case kFilters:
    case kPages:
    case kPlain:
    case kKinds:
        break;
    default:
        // A few blocks of a GiB that are copied fill a machine that runs other tests as well.
        if (kind != kFars || options.minutes > 0) {
            InterceptAs(kind, random, &plan);
            // These filters are no sandbox, but may be taken for one. In one blocks are not moved
            // but copied: of the far ones there is not so much memory.
            static constexpr const char *kSandbox[] = {"0", "0", "0", "1", "2", "2"};
            const char *sandbox = random->Of(kSandbox);
            if (kind == kCharges) {
                plan.filters = random->OneIn(3);
                sandbox = plan.filters ? "2" : random->OneIn(2) ? "1" : sandbox;
            }
            Set("HAKMEM_SANDBOX", plan.far ? "0" : sandbox);
        }
    }
    if (plan.grows || plan.far) {
        Set("HAKMEM_THP", "0"); // on huge pages what is touched here and there is all of it
    }
    plan.misuses = random->OneIn(kind == kGuards ? 3 : 8);
    plan.exits_busy = random->OneIn(4) || plan.loses_lanes; // what those threads had stays
    return plan;
}

std::atomic<bool> opened;

void *OpenLibrary(void *path) {
    void *library = dlopen(static_cast<const char *>(path), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        Fail("%s", dlerror());
    }
    struct link_map *map = nullptr;
    if (dlinfo(library, RTLD_DI_LINKMAP, &map) != 0) {
        Fail("%s", dlerror());
    }
    Open(map->l_addr + calls["malloc"]);
    if (strcmp(lib.hak_flavour(), options.flavour) != 0) {
        Fail("the library is %s", lib.hak_flavour());
    }
    opened = true;
    return nullptr;
}

// A copy of the library with traps at what is armed.
int MakeCopy() {
    std::vector<unsigned char> copy = image;
    for (size_t i = 0; i < places.size(); i++) {
        if (armed[i] != kNotArmed) {
            copy[FileOffset(places[i].at)] = 0xCC;
        }
    }
    for (size_t i = 0; i < functions.size(); i++) {
        if (IsProbed(i)) {
            copy[FileOffset(functions[i].first)] = 0xCC;
        }
    }
    int fd = memfd_create("stalls", MFD_CLOEXEC);
    if (fd < 0 || write(fd, copy.data(), copy.size()) != static_cast<ssize_t>(copy.size())) {
        Fail("no copy of the library: %s", strerror(errno));
    }
    return fd;
}

// In a tide threads start together and end together, so that many heaps are without one.
void Restart(const Plan &plan, Random *random) {
    JoinEnded();
    unsigned running = 0;
    for (const Worker &worker : workers) {
        running += worker.state == Worker::kRuns;
    }
    if (!plan.tides || running <= kFewest + holding) {
        StartWorkers(plan.threads, random);
    }
}

// Restarts threads that have ended, until something is so.
template <typename Fn> void RunUntil(const Plan &plan, Random *random, Fn fn) {
    while (!fn()) {
        Restart(plan, random);
        PauseUs(200);
    }
}

void RunFor(const Plan &plan, Random *random, uint64_t operations) {
    uint64_t until = *progress + operations;
    RunUntil(plan, random, [=] { return *progress >= until; });
}

// No worker ends from now on.
void MakeEndless(const Plan &plan, Random *random) {
    ends_at = UINT64_MAX;
    RunUntil(plan, random, [&plan, random] {
        StartWorkers(plan.threads, random);
        bool all = true;
        for (unsigned i = 0; i < plan.threads; i++) {
            all &= workers[i].endless && workers[i].state == Worker::kRuns;
        }
        return all;
    });
}

// A thread that ends without its destructors keeps its heap: so many that no more can be made, or
// so many that the directory of heaps has to grow.
constexpr size_t kSmallCrowd = 300;
void *Vanish(void *) {
    lib.free(lib.malloc(64));
    syscall(SYS_exit, 0);
    return nullptr;
}

void MakeCrowd(size_t most) {
    Arm(); // the first of them find the directory of heaps without room
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 64 * kKiB);
    struct hak_stats stats;
    size_t heaps = 0;
    do {
        for (size_t i = 0; i < std::min(most, size_t{512}); i++) {
            pthread_t thread;
            StartThread(&thread, &attr, Vanish, nullptr);
            pthread_join(thread, nullptr);
        }
        progress->fetch_add(1, std::memory_order_relaxed); // it does not stand still
        lib.stats(&stats);
        if (stats.heaps <= heaps) {
            break;
        }
        heaps = stats.heaps;
    } while (heaps < most);
    pthread_attr_destroy(&attr);
    Disarm();
}

void *EndInRecord(void *) {
    ends_in_record = true;
    lib.free(lib.malloc(64));
    ends_in_record = false; // another thread has passed the trap before
    return nullptr;
}

// Threads end in the middle of a record: each takes a lane of the recorder along, until none is
// left. Where they do is found by trying: at one of the two counters of note() a thread has a lane.
void LoseLanes() {
    constexpr int kLanes = 64;
    for (size_t i = 0; i < places.size(); i++) {
        const std::string &name = places[i].name;
        if (name.compare(0, 5, "note:") != 0 || name.find("xadd") == std::string::npos) {
            continue;
        }
        last_place = static_cast<int>(i);
        for (int thread_count = 0; thread_count < 2 * kLanes; thread_count++) {
            WriteCode(last_place, 0xCC);
            pthread_t thread;
            StartThread(&thread, nullptr, EndInRecord, nullptr);
            pthread_join(thread, nullptr);
        }
        WriteCode(last_place, Original(last_place));
    }
}

constexpr size_t kGuarded = 60; // bytes, so that some more are within the block's alignment

// A block that stands against a page that nobody may touch; null if none is to be had.
unsigned char *AllocateGuarded() {
    constexpr int kTries = 20000;
    for (int i = 0; i < kTries; i++) {
        void *p = lib.malloc(kGuarded);
        if (p != nullptr && !IsInHeap(p)) {
            return static_cast<unsigned char *>(p);
        }
        lib.free(p);
    }
    return nullptr;
}

thread_local sigjmp_buf after_fault;
thread_local volatile unsigned char *forbidden;

// Reads a guarded block that is free: a fault, which the library tells of, and hands to the
// program's handler.
void *TouchForbidden(void *) {
    volatile unsigned char *p = AllocateGuarded();
    if (p != nullptr) {
        lib.free(const_cast<unsigned char *>(p));
        forbidden = p;
        if (sigsetjmp(after_fault, 1) == 0) {
            static_cast<void>(*p); // no fault, if another thread has got the block
        }
        forbidden = nullptr;
    }
    return nullptr;
}

void *Misuse(void *) {
    static char none_of_the_heap[256];
    unsigned char *p = kind == kGuards ? AllocateGuarded() : nullptr;
    if (p != nullptr && shared->processes % 2 == 0) {
        lib.free(p + 1);
        Fail("the inside of a block could be freed");
    }
    if (p != nullptr) {
        p[kGuarded] = 0;
        lib.free(p);
        Fail("a block could be freed that was written past");
    }
    lib.free(none_of_the_heap + 128);
    Fail("static data could be freed");
}

void MisuseOnce(const Plan &plan, Random *random, Random *of_places, bool only_new,
                void *(*misuse)(void *)) {
    MakeEndless(plan, random);
    DrawPlaces(of_places, only_new, plan.threads);
    stall_seed = random->Next();
    Arm();
    pthread_t thread;
    StartThread(&thread, nullptr, misuse, nullptr);
    pthread_join(thread, nullptr);
    Disarm();
    RunUntil(plan, random, [] { return holding == 0; });
    ends_at = 0;
}

bool IsHardened() {
    return strcmp(options.flavour, "hakmem_hardened") == 0;
}

// Everything is freed: nothing may be left in use.
void CheckEmpty() {
    for (Slot &slot : slots) {
        if (Take(&slot, Slot::kLive)) {
            Release(&slot, "free in the end");
        }
        if (slot.state != Slot::kEmpty) {
            Fail("a slot of the model is busy in the end");
        }
    }
    lib.malloc_trim(0);
    if (!trims_exactly) {
        return;
    }
    struct hak_stats stats;
    lib.stats(&stats);
    if (IsHardened()) {
        stats.tiny_slabs = 0; // a slab is its size's for good
    }
    if (stats.private_live != 0 || stats.tiny_live != 0 || stats.tiny_cached != 0 ||
        stats.large_blocks != 0 || stats.tiny_slabs != 0) {
        Fail("all is freed, but %zu B of small blocks are live, %zu B in caches, %zu slabs in use, "
             "%zu large blocks",
             stats.tiny_live, stats.tiny_cached, stats.tiny_slabs, stats.large_blocks);
    }
}

// A fault of memory that is not the model's: where in the library it is.
void OnFault(int signal, siginfo_t *info, void *context) {
    if (info->si_addr != nullptr && info->si_addr == forbidden) {
        siglongjmp(after_fault, 1);
    }
    const greg_t *registers = static_cast<ucontext_t *>(context)->uc_mcontext.gregs;
    std::string where;
    auto add = [&where](uintptr_t at) {
        int function = FindFunction(at - base);
        if (function >= 0) {
            char text[20];
            snprintf(text, sizeof text, " %zx ", static_cast<size_t>(at - base));
            where += text + functions[static_cast<size_t>(function)].second;
        }
    };
    add(static_cast<uintptr_t>(registers[REG_RIP]));
    const uintptr_t *stack = reinterpret_cast<const uintptr_t *>(registers[REG_RSP]);
    for (int i = 0; i < 200 && where.size() < 200; i++) {
        add(stack[i]);
    }
    Fail("signal %d at address %p%s%s, code, and perhaps callers:%s", signal, info->si_addr,
         info->si_code == SEGV_MAPERR ? " (not mapped)" : "",
         getpid() == process ? "" : " in a child", where.c_str());
}

bool TakesMisfits() {
    return !IsHardened() && std::any_of(places.begin(), places.end(), [](const Place &place) {
        return place.name.compare(0, 11, "put_misfit:") == 0;
    });
}

void SetHandlers() {
    Catch(SIGTRAP, OnTrap);
    Catch(SIGSYS, OnTrappedCall);
    Catch(SIGSEGV, OnFault);
    Catch(SIGBUS, OnFault);
    Catch(SIGFPE, OnFault);
    Catch(SIGILL, OnFault);
}

[[noreturn]] void RunProcess(uint64_t seed, bool only_new) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    process = getpid();
    progress = &shared->operations;
    mallopt(M_ARENA_MAX, 1);
    if (!Live::Map()) {
        snprintf(shared->fault, sizeof shared->fault, "no address space for the model: %s",
                 strerror(errno));
        _exit(kSkipped);
    }
    // What is drawn for the places depends on what was held before; what is drawn for all else
    // does not, so that a seed repeats it.
    Random random(seed);
    Random of_places(seed + shared->stalls);
    kind = static_cast<Kind>(seed % kKinds);
    takes_misfits = TakesMisfits();
    SetHandlers();
    Plan plan = DrawPlan(&random);
    plan.crowd = !null_allowed &&
                 (shared->wants_crowd || (options.minutes > 0 && only_new && random.OneIn(10)));
    trims_exactly = !plan.background;
    if (plan.crowd) {
        plan.threads = 4;
        plan.tides = false;
    }
    if (!only_new) {
        plan.rounds = 30;
        plan.seconds = options.only.empty() ? 8 : 300;
    }
    DrawRegime(&random, plan);
    sink = fopen("/dev/null", "w");
    if (pthread_key_create(&at_end, AtEnd) != 0) {
        Fail("no key");
    }
    DrawPlaces(&of_places, only_new, plan.threads);
    stall_seed = random.Next();
    arming = true; // the copy has the traps
    ends_at = *progress + 400;
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", MakeCopy());
    StartWorkers(plan.threads, &random);
    pthread_t opener;
    StartThread(&opener, nullptr, OpenLibrary, path);
    double begin = Now();
    for (unsigned round = 0;
         round < plan.rounds && (options.minutes == 0 || Now() - begin < plan.seconds); round++) {
        if (round == 1 && plan.loses_lanes) {
            LoseLanes();
        }
        if (round > 0) {
            DrawPlaces(&of_places, only_new, plan.threads);
            stall_seed = random.Next();
            DrawRegime(&random, plan);
            Arm();
        }
        // One thread; or some, where all that was never held is armed, as long as some come by.
        unsigned most = only_new ? kMostHolds : 1;
        unsigned enough =
            options.only.empty() ? kPartnerHolds : static_cast<unsigned>(2 * options.only.size());
        unsigned seen = 0;
        uint64_t until = *progress + 3000;
        RunUntil(plan, &random, [&] {
            if (holding == 0 && seen != holds + partner_holds) {
                seen = holds + partner_holds;
                until = *progress + 1000;
            }
            return holds >= most || partner_holds >= enough || (*progress >= until && holding == 0);
        });
        if (round == 0) {
            RunUntil(plan, &random, [] { return opened.load(); }); // held in the constructor
        }
        RunFor(plan, &random, 60); // what the stall has spoiled is to be seen
        Disarm();
        RunUntil(plan, &random, [] { return holding == 0; });
        Disarm(); // what the last thread that was held has armed again
        if (round == 0 && plan.crowd) {
            DrawPlaces(&of_places, only_new, plan.threads);
            MakeEndless(plan, &random); // nobody starts others meanwhile
            MakeCrowd(shared->wants_crowd ? SIZE_MAX : kSmallCrowd);
            ends_at = 0;
            plan.threads = 24; // more than have a heap
        } else if (holds + partner_holds == 0 && only_new && round > 0 && shared->goal < 0) {
            break; // others have other settings
        }
    }
    if (kind == kGuards && !plan.misuses) {
        MisuseOnce(plan, &random, &of_places, only_new, TouchForbidden);
    }
    if (plan.misuses) {
        shared->to_abort = true;
        MisuseOnce(plan, &random, &of_places, only_new, Misuse);
    }
    if (plan.exits_busy || plan.crowd) {
        MakeEndless(plan, &random);
        DrawPlaces(&of_places, only_new, plan.threads);
        stall_seed = random.Next();
        Arm();
        exit(0);
    }
    stopping = true;
    for (Worker &worker : workers) {
        if (worker.state != Worker::kNone) {
            pthread_join(worker.thread, nullptr);
        }
    }
    CheckEmpty();
    exit(0);
}

// --- The process that starts and judges the others

std::string NameOf(uint32_t key) {
    const Place &place = places[key / kModes];
    char at[32];
    snprintf(at, sizeof at, "%zx:", static_cast<size_t>(place.at));
    return at + std::string(key % kModes == kBefore ? "before" : "behind") + " " + place.name;
}

void Report(uint64_t seed, const std::string &what, int err) {
    fprintf(stderr, "stalls: FAULT: %s\n", what.c_str());
    if (shared->fault[0] != '\0') {
        fprintf(stderr, "  %s\n", shared->fault);
    }
    // What the library says of a fault, and what was said last; there may be statistics, too.
    if (FILE *in = fdopen(dup(err), "r")) {
        constexpr size_t kLast = 5;
        std::vector<std::string> last;
        rewind(in);
        char line[500];
        while (fgets(line, sizeof line, in) != nullptr) {
            if (strncmp(line, "hakmem: ", 8) == 0) {
                fprintf(stderr, "  %s", line);
            } else if (line[0] != '\n') {
                last.emplace_back(line);
            }
        }
        fclose(in);
        for (size_t i = last.size() - std::min(last.size(), kLast); i < last.size(); i++) {
            fprintf(stderr, "  said: %s", last[i].c_str());
        }
    }
    fprintf(stderr, "  settings: %s\n", shared->settings);
    uint32_t told = shared->told;
    for (uint32_t i = told > kTold ? told - kTold : 0; i < told; i++) {
        fprintf(stderr, "  %s: %s\n", i + 1 < told ? "held before" : "held last",
                NameOf(shared->last[i % kTold]).c_str());
    }
    if (told > 0) {
        std::string last;
        for (uint32_t i = told - std::min(told, kMostPartners); i < told; i++) {
            std::string name = NameOf(shared->last[i % kTold]);
            last += (last.empty() ? "" : ",") + name.substr(0, name.find(' '));
        }
        fprintf(stderr, "  to repeat: tools/stalls --minutes 5 --seed %llu --place %s %s\n",
                static_cast<unsigned long long>(seed), last.c_str(), options.flavour);
    }
}

volatile sig_atomic_t interrupted;

void OnInterrupt(int) {
    interrupted = 1;
}

// False if the process has ended as it should not.
bool Judge(uint64_t seed, int status, bool hangs, int err) {
    if (hangs) {
        Report(seed, "the process stands still", err);
        return false;
    }
    bool aborts = WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
    if (status == 0 ? !shared->to_abort : aborts && shared->to_abort) {
        return true;
    }
    std::string what = "the process ended with ";
    what += WIFSIGNALED(status) ? "signal " + std::to_string(WTERMSIG(status))
                                : "status " + std::to_string(WEXITSTATUS(status));
    Report(seed, what, err);
    return false;
}

// What the last process and its children have written.
void EmptyScratch() {
    DIR *folder = opendir(options.scratch);
    while (struct dirent *entry = folder == nullptr ? nullptr : readdir(folder)) {
        if (strstr(entry->d_name, ".record") != nullptr) {
            unlinkat(dirfd(folder), entry->d_name, 0);
        }
    }
    if (folder != nullptr) {
        closedir(folder);
    }
}

bool RunOne(uint64_t seed, bool only_new, int err) {
    EmptyScratch();
    shared->told = 0;
    shared->to_abort = false;
    shared->fault[0] = '\0';
    if (ftruncate(err, 0) != 0) {
        perror("stalls");
    }
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGINT, SIG_DFL);
        signal(SIGTERM, SIG_DFL);
        dup2(err, STDERR_FILENO);
        RunProcess(seed, only_new);
    }
    if (pid < 0) {
        perror("stalls: fork");
        exit(1);
    }
    shared->processes++;
    int status = -1;
    bool hangs = false;
    // Without an operation for two minutes it has come to a standstill: its threads wait for the
    // one that is held, or for each other.
    constexpr double kStandstill = 120;
    double since = Now();
    uint64_t seen = shared->operations;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        PauseUs(500);
        if (interrupted) {
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
            return true;
        }
        if (seen != shared->operations) {
            seen = shared->operations;
            since = Now();
        } else if (Now() - since > kStandstill) {
            hangs = true;
            kill(pid, SIGABRT);
            waitpid(pid, &status, 0);
            break;
        }
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == kSkipped) {
        printf("stalls: skipped: %s\n", shared->fault);
        exit(kSkipped);
    }
    return Judge(seed, status, hangs, err);
}

size_t CountHeld(int mode) {
    size_t sum = 0;
    for (size_t i = 0; i < places.size(); i++) {
        sum += WasHeld(static_cast<int>(i), mode);
    }
    return sum;
}

// A short run is for the most of them: others wait for a race between two other threads, for more
// threads than can have a heap, or for limits that cost time. A long one is for all but the
// exceptions.
bool EnoughHeld() {
    if (options.minutes == 0) {
        size_t most = places.size() * 3 / 5;
        return CountHeld(kBefore) >= most && CountHeld(kBehind) >= most;
    }
    for (size_t i = 0; i < places.size(); i++) {
        int place = static_cast<int>(i);
        if (ExceptionOf(places[i]) == nullptr &&
            !(WasHeld(place, kBefore) && WasHeld(place, kBehind))) {
            return false;
        }
    }
    return true;
}

// A place that was not held yet, of those that have been a goal least often; -1 if there is none.
int DrawGoal(Random *random) {
    static std::vector<unsigned> &tries = *new std::vector<unsigned>(places.size());
    int best = -1;
    unsigned equal = 0;
    for (size_t i = 0; i < places.size(); i++) {
        int place = static_cast<int>(i);
        if (ExceptionOf(places[i]) != nullptr ||
            (WasHeld(place, kBefore) && WasHeld(place, kBehind))) {
            continue;
        }
        if (best < 0 || tries[i] < tries[static_cast<size_t>(best)]) {
            best = place;
            equal = 1;
        } else if (tries[i] == tries[static_cast<size_t>(best)] && random->OneIn(++equal)) {
            best = place;
        }
    }
    if (best >= 0) {
        tries[static_cast<size_t>(best)]++;
    }
    return best;
}

// The kinds of processes whose state it takes to come to all places of a function that others call
// too.
struct Home {
    const char *function;
    Kind kind;
};
constexpr Home kHomes[] = {
    {"add_alone", kGrows},
    {"add_regions", kGrows},
    {"arena_commit", kCharges},
    {"arena_find_run", kHuge},
    {"arena_open_piece", kTaken},
    {"arena_open_piece", kGrows},
    {"extend", kTaken},
    {"group_has_idle", kHuge},
    {"heap_profile_put_back", kProfiles},
    {"lower_top", kHuge},
    {"note", kRecords},
    {"page_arena_claim_bare", kTight},
    {"recorder_enters_recording", kRecords},
    {"settle_run", kFewMaps},
};

// A kind of process for a goal: one that kHomes names, or one of those whose threads came to the
// most places of the goal's function, as the others may call it in vain. Otherwise one that has
// called the function, or any if none has.
uint64_t DrawKind(int wanted, Random *random) {
    std::vector<uint64_t> homes;
    for (const Home &home : kHomes) {
        if (IsIn(wanted, home.function)) {
            homes.push_back(home.kind);
        }
    }
    if (!homes.empty() && random->OneIn(2)) {
        return homes[random->Below(homes.size())];
    }
    size_t function = static_cast<size_t>(places[static_cast<size_t>(wanted)].function);
    bool by_places = !random->OneIn(3);
    std::vector<uint64_t> kinds;
    size_t best = 1;
    for (uint64_t i = 0; i < kKinds; i++) {
        size_t count = shared->called[i][function] ? 1 : 0;
        for (size_t place = 0; place < places.size() && by_places; place++) {
            bool of_function = places[place].function == static_cast<int>(function);
            count += of_function && shared->came[i][place];
        }
        if (count > best) {
            best = count;
            kinds.clear();
        }
        if (count == best) {
            kinds.push_back(i);
        }
    }
    return kinds.empty() ? random->Below(kKinds) : kinds[random->Below(kinds.size())];
}

// The seed of a process, which says of what kind it is, and its goal. Each kind gets as much time
// as the others, but for every other process, which is for its goal. A short run makes those that
// cost little.
uint64_t DrawSeed(uint64_t i, const double *spent) {
    static constexpr uint64_t kCheap[] = {kPlain, kPurges,   kStatistics, kCommits, kLimits,
                                          kTight, kProfiles, kFilters,    kGuards};
    constexpr uint64_t kCheaps = sizeof kCheap / sizeof *kCheap;
    Random random(options.seed + i);
    uint64_t turn = static_cast<uint64_t>(std::min_element(spent, spent + kKinds) - spent);
    shared->goal = options.minutes == 0 ? -1 : DrawGoal(&random);
    if (options.minutes == 0) {
        turn = kCheap[i % kCheaps];
    } else if (i < kKinds) {
        turn = i;
    } else if (i % 2 == 0 && shared->goal >= 0) {
        turn = DrawKind(shared->goal, &random);
    }
    return (options.seed + i) * kKinds + turn;
}

// What has been counted, by name, so that runs can add up in a file: what was held, what was
// learned of the library, and the sums that the last line tells.
using Sums = std::map<std::string, uint64_t>;

template <typename Fn> void EachSum(Fn fn) {
    auto at = [](const char *what, uint64_t a, uint64_t b) {
        return std::string(what) + " " + std::to_string(a) + " " + std::to_string(b);
    };
    for (size_t i = 0; i < places.size(); i++) {
        for (uint64_t mode = 0; mode < kModes; mode++) {
            fn(at("held", i, mode), &shared->held[i][mode]);
            fn(at("at_fork", i, mode), &shared->held_at_fork[i][mode]);
        }
        for (uint64_t word = 0; word < kMostFunctions / 64; word++) {
            fn(at("callers", i, word), &shared->callers[i][word]);
        }
    }
    for (uint64_t k = 0; k < kKinds; k++) {
        for (size_t i = 0; i < places.size(); i++) {
            fn(at("came", k, i), &shared->came[k][i]);
        }
        for (size_t i = 0; i < functions.size(); i++) {
            fn(at("called", k, i), &shared->called[k][i]);
        }
    }
    fn("operations", &shared->operations);
    fn("stalls", &shared->stalls);
    fn("forks", &shared->forks);
    fn("threads", &shared->threads);
    fn("processes", &shared->processes);
    fn("milliseconds", &shared->milliseconds);
    fn("runs", &shared->runs);
}

// Of the very same library: the first line of the file tells of which.
std::string ImageName() {
    uint64_t hash = 0xcbf29ce484222325;
    for (unsigned char byte : image) {
        hash = (hash ^ byte) * 0x100000001b3;
    }
    return std::string(options.flavour) + " " + std::to_string(hash);
}

Sums ReadSums(FILE *in) {
    Sums sums;
    char line[500];
    rewind(in);
    if (fgets(line, sizeof line, in) == nullptr || ImageName() + "\n" != line) {
        return sums;
    }
    while (fgets(line, sizeof line, in) != nullptr) {
        char *last = strrchr(line, ' ');
        if (last != nullptr) {
            sums[std::string(line, static_cast<size_t>(last - line))] =
                strtoull(last + 1, nullptr, 10);
        }
    }
    return sums;
}

Sums before; // what the file had when this run began

// Opens the file, and keeps other runs from it until it is closed.
FILE *OpenSums() {
    int fd = open(options.held, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    FILE *file = fd < 0 || flock(fd, LOCK_EX) != 0 ? nullptr : fdopen(fd, "r+");
    if (file == nullptr) {
        perror(options.held);
        exit(2);
    }
    return file;
}

void LoadSums() {
    FILE *file = OpenSums();
    before = ReadSums(file);
    fclose(file);
    EachSum([](const std::string &name, auto *counter) {
        auto found = before.find(name);
        if (found != before.end()) {
            *counter =
                static_cast<std::remove_reference_t<decltype(counter->load())>>(found->second);
        }
    });
}

// Adds what this run has counted to what is in the file by now: other runs may have ended
// meanwhile.
void StoreSums() {
    FILE *file = OpenSums();
    Sums sums = ReadSums(file);
    EachSum([&sums](const std::string &name, auto *counter) {
        uint64_t now = *counter;
        bool bits = name.compare(0, 4, "call") == 0 || name.compare(0, 4, "came") == 0;
        uint64_t &sum = sums[name];
        sum = bits ? sum | now : sum + now - before[name];
    });
    rewind(file);
    fprintf(file, "%s\n", ImageName().c_str());
    for (const auto &[name, sum] : sums) {
        if (sum != 0) {
            fprintf(file, "%s %llu\n", name.c_str(), static_cast<unsigned long long>(sum));
        }
    }
    if (fflush(file) != 0 || ftruncate(fileno(file), ftell(file)) != 0) {
        perror(options.held);
    }
    fclose(file);
    // The summary is of all.
    EachSum([&sums](const std::string &name, auto *counter) {
        *counter = static_cast<std::remove_reference_t<decltype(counter->load())>>(sums[name]);
    });
}

void Summary(bool complete) {
    size_t at_fork = 0;
    for (size_t i = 0; i < places.size(); i++) {
        bool at_fork_only = false;
        for (int mode = 0; mode < kModes; mode++) {
            at_fork_only |= shared->held[i][mode] == 0 && shared->held_at_fork[i][mode] != 0;
            if (complete && options.minutes > 0 && !WasHeld(static_cast<int>(i), mode)) {
                const Exception *exception = ExceptionOf(places[i]);
                std::string kinds;
                for (size_t k = 0; k < kKinds; k++) {
                    if (shared->called[k][places[i].function]) {
                        kinds +=
                            std::string(kinds.empty() ? "; called in: " : ", ") + kKindNames[k];
                    }
                }
                printf(
                    "stalls: never held: %s%s%s\n",
                    NameOf(static_cast<uint32_t>(i * kModes) + static_cast<uint32_t>(mode)).c_str(),
                    exception == nullptr ? kinds.c_str() : "; need not be: ",
                    exception == nullptr ? "" : exception->why);
            }
        }
        at_fork += at_fork_only;
    }
    auto number = [](uint64_t n) { return static_cast<unsigned long long>(n); };
    printf("%s: of %zu atomic instructions %zu held before and %zu behind "
           "(%zu only in a forked child, within fork()); %zu that are not atomic in a process of "
           "one thread left out; %llu stalls while others did %llu operations in %llu processes, "
           "%llu threads and %llu forks, %.0f s in %llu runs\n",
           options.flavour, places.size(), CountHeld(kBefore), CountHeld(kBehind), at_fork,
           plain_steps, number(shared->stalls), number(shared->operations),
           number(shared->processes), number(shared->threads), number(shared->forks),
           static_cast<double>(shared->milliseconds) / 1e3, number(shared->runs));
}

bool Parse(int argc, char **argv, const char **list, const char **library) {
    std::string place;
    for (int i = 1; i + 1 < argc; i += 2) {
        std::string name = argv[i];
        const char *value = argv[i + 1];
        if (name == "--list") {
            *list = value;
        } else if (name == "--library") {
            *library = value;
        } else if (name == "--flavour") {
            options.flavour = value;
        } else if (name == "--minutes") {
            options.minutes = strtod(value, nullptr);
        } else if (name == "--seed") {
            options.seed = strtoull(value, nullptr, 10);
        } else if (name == "--held") {
            options.held = value;
        } else if (name == "--scratch") {
            options.scratch = value;
        } else if (name == "--place") {
            place = value;
        } else {
            return false;
        }
    }
    if (*list == nullptr || *library == nullptr || options.flavour == nullptr) {
        return false;
    }
    if (!ReadList(*list) || !ReadImage(*library) || places.empty() || places.size() > kMostPlaces ||
        functions.size() > kMostFunctions) {
        fprintf(stderr, "stalls: no list, or no library\n");
        return false;
    }
    for (size_t from = 0; from < place.size();) {
        std::string one = place.substr(from, place.find(',', from) - from);
        from += one.size() + 1;
        int at = FindPlace(strtoul(one.c_str(), nullptr, 16));
        if (at < 0) {
            fprintf(stderr, "stalls: no atomic instruction at %s\n", one.c_str());
            return false;
        }
        options.only.push_back({at, one.find(":behind") != std::string::npos   ? kBehind
                                    : one.find(":before") != std::string::npos ? kBefore
                                                                               : -1});
    }
    return true;
}

} // namespace

// The library blocks all signals for a thread of its own, which a trap would end then: no mask may
// hold SIGTRAP, SIGSYS or SIGSEGV. This definition is found before libc's.
extern "C" __attribute__((visibility("default"))) int pthread_sigmask(int how, const sigset_t *set,
                                                                      sigset_t *old) noexcept {
    sigset_t without = {};
    if (set != nullptr) {
        without = *set;
        if (how != SIG_UNBLOCK) {
            sigdelset(&without, SIGTRAP);
            sigdelset(&without, SIGSYS);
            sigdelset(&without, SIGSEGV);
        }
    }
    constexpr size_t kKernelsSize = 8;
    return syscall(SYS_rt_sigprocmask, how, set == nullptr ? nullptr : &without, old,
                   kKernelsSize) == 0
               ? 0
               : errno;
}

int main(int argc, char **argv) {
    const char *list = nullptr;
    const char *library = nullptr;
    if (!Parse(argc, argv, &list, &library)) {
        return 2;
    }
    void *p =
        mmap(nullptr, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int err = memfd_create("stderr", MFD_CLOEXEC);
    if (p == MAP_FAILED || err < 0) {
        perror("stalls");
        return 1;
    }
    fcntl(err, F_SETFL, O_APPEND);
    shared = static_cast<Shared *>(p);
    signal(SIGINT, OnInterrupt);
    signal(SIGTERM, OnInterrupt);
    double begin = Now();
    double spent[kKinds] = {};              // seconds
    bool crowded = false;                   // a process has had so many threads
    constexpr uint64_t kMostOfShort = 2000; // processes; one that needs more is a fault
    bool repeat = !options.only.empty();
    bool good = true;
    if (options.held != nullptr) {
        LoadSums();
    }
    for (uint64_t i = 0; !interrupted; i++) {
        bool enough = EnoughHeld();
        if (Now() - begin >= options.minutes * 60 &&
            (options.minutes > 0 || enough || i >= kMostOfShort)) {
            break;
        }
        // Once, at half time: it takes some gigabytes, and a minute or more.
        constexpr double kLeast = 5;
        shared->wants_crowd = !repeat && !enough && !crowded && options.minutes >= kLeast &&
                              Now() - begin > options.minutes * 30;
        crowded = crowded || shared->wants_crowd;
        bool only_new = !repeat && !enough && (options.minutes == 0 || i % 8 != 7);
        uint64_t seed = repeat ? options.seed : DrawSeed(i, spent);
        double from = Now();
        if (!RunOne(seed, only_new, err)) {
            good = false;
            break;
        }
        spent[seed % kKinds] += Now() - from;
    }
    shared->milliseconds += static_cast<uint64_t>((Now() - begin) * 1e3);
    shared->runs++;
    if (options.held != nullptr) {
        StoreSums();
    }
    Summary(good && !repeat);
    return good && (repeat || EnoughHeld()) ? 0 : 1;
}
