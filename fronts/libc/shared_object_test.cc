// SPDX-License-Identifier: Apache-2.0
// The contents of the shared object that ships.
#include <dlfcn.h>
#include <elf.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "fronts/libc/shell.h"
#include "gtest/gtest.h"

namespace {

constexpr char kRelease[] = "libhakmem_c23.so";
constexpr char kDebug[] = "libhakmem_c23_debug.so";
constexpr const char *kReleases[] = {kRelease, "libhakmem_c23_header.so", "libhakmem_classic.so",
                                     "libhakmem_hardened.so"};

// A shared object, read whole.
class Elf {
  public:
    explicit Elf(const char *path) {
        std::ifstream in(path, std::ios::binary);
        bytes_.assign(std::istreambuf_iterator<char>(in), {});
    }
    bool Ok() const {
        return bytes_.size() > sizeof(Elf64_Ehdr) && memcmp(bytes_.data(), ELFMAG, SELFMAG) == 0;
    }
    const Elf64_Ehdr &header() const { return *At<Elf64_Ehdr>(0); }
    std::vector<Elf64_Phdr> Segments() const {
        const Elf64_Phdr *first = At<Elf64_Phdr>(header().e_phoff);
        return std::vector<Elf64_Phdr>(first, first + header().e_phnum);
    }
    std::vector<Elf64_Dyn> Dynamic() const {
        for (const Elf64_Phdr &segment : Segments()) {
            if (segment.p_type == PT_DYNAMIC) {
                const Elf64_Dyn *first = At<Elf64_Dyn>(segment.p_offset);
                return std::vector<Elf64_Dyn>(first, first + segment.p_filesz / sizeof *first);
            }
        }
        return {};
    }
    // The section of that type, or nullptr.
    const Elf64_Shdr *Section(uint32_t type) const {
        const Elf64_Shdr *first = At<Elf64_Shdr>(header().e_shoff);
        for (int i = 0; i < header().e_shnum; i++) {
            if (first[i].sh_type == type) {
                return &first[i];
            }
        }
        return nullptr;
    }
    const char *DynamicString(uint64_t offset) const {
        const Elf64_Shdr *symbols = Section(SHT_DYNSYM);
        const Elf64_Shdr *strings = At<Elf64_Shdr>(header().e_shoff) + symbols->sh_link;
        return bytes_.data() + strings->sh_offset + offset;
    }
    std::vector<Elf64_Sym> DynamicSymbols() const {
        const Elf64_Shdr *section = Section(SHT_DYNSYM);
        const Elf64_Sym *first = At<Elf64_Sym>(section->sh_offset);
        return std::vector<Elf64_Sym>(first, first + section->sh_size / sizeof *first);
    }
    // Runs of printable characters, as strings(1) finds them.
    std::set<std::string> Strings() const {
        std::set<std::string> found;
        std::string run;
        for (char c : bytes_) {
            if (c >= 0x20 && c < 0x7f) {
                run += c;
                continue;
            }
            if (run.size() >= 5) {
                found.insert(run);
            }
            run.clear();
        }
        return found;
    }

  private:
    template <typename T> const T *At(uint64_t offset) const {
        return reinterpret_cast<const T *>(bytes_.data() + offset);
    }
    std::string bytes_;
};

class SharedObjectTest : public testing::TestWithParam<const char *> {
  protected:
    SharedObjectTest() : elf_(GetParam()) {}
    void SetUp() override { ASSERT_TRUE(elf_.Ok()) << GetParam(); }
    Elf elf_;
};

INSTANTIATE_TEST_SUITE_P(Flavours, SharedObjectTest, testing::Values(kRelease, kDebug),
                         [](const testing::TestParamInfo<const char *> &param) {
                             return std::string(param.param == kRelease ? "release" : "debug");
                         });

TEST_P(SharedObjectTest, ExportsTheInterfaceAndNothingElse) {
    const std::set<std::string> interface = {
        // C
        "malloc", "free", "calloc", "realloc", "reallocarray", "aligned_alloc", "posix_memalign",
        "memalign", "valloc", "pvalloc", "cfree", "malloc_usable_size", "free_sized",
        "free_aligned_sized", "malloc_trim", "mallinfo", "mallinfo2", "malloc_info", "malloc_stats",
        "mallopt", "__libc_malloc", "__libc_free", "__libc_calloc", "__libc_realloc",
        "__libc_memalign", "__posix_memalign", "__libc_valloc", "__libc_pvalloc", "__libc_mallinfo",
        "__libc_mallopt",
        // C++: new, new[], delete, delete[], each plain, nothrow, aligned, both; sized deletes
        "_Znwm", "_ZnwmRKSt9nothrow_t", "_ZnwmSt11align_val_t",
        "_ZnwmSt11align_val_tRKSt9nothrow_t", "_Znam", "_ZnamRKSt9nothrow_t",
        "_ZnamSt11align_val_t", "_ZnamSt11align_val_tRKSt9nothrow_t", "_ZdlPv", "_ZdlPvm",
        "_ZdlPvRKSt9nothrow_t", "_ZdlPvSt11align_val_t", "_ZdlPvmSt11align_val_t",
        "_ZdlPvSt11align_val_tRKSt9nothrow_t", "_ZdaPv", "_ZdaPvm", "_ZdaPvRKSt9nothrow_t",
        "_ZdaPvSt11align_val_t", "_ZdaPvmSt11align_val_t", "_ZdaPvSt11align_val_tRKSt9nothrow_t",
        // In place of libc's, which another allocator may have replaced
        "strdup", "strndup",
        // On the way to libc's
        "dlopen", "dlmopen",
        // The functions by which a program filters itself
        "prctl", "syscall",
        // Our own
        "hak_flavour", "hak_profile_dump", "hak_stats", "hak_stats_json", "hak_version",
        "hakmem_descriptor",
        // For fronts/compat
        "hak_aligned_zalloc", "hak_decay", "hak_decay_ms", "hak_flush_thread", "hak_good_size",
        "hak_heap_alloc", "hak_heap_alloc_at", "hak_heap_delete", "hak_heap_destroy",
        "hak_heap_good_size", "hak_heap_new", "hak_heap_of", "hak_heap_reset", "hak_heap_stats",
        "hak_heap_visit", "hak_in_heap", "hak_page_sizes", "hak_purge", "hak_resize_here",
        "hak_set_decay_ms", "hak_thread_cached", "hak_usable"};
    // Marks that some linkers put into every shared object.
    const std::set<std::string> linkers = {"HAKMEM_1", "HAKMEM_PRIVATE", "__bss_start", "_edata",
                                           "_end",     "_fini",          "_init"};
    std::set<std::string> exported;
    for (const Elf64_Sym &symbol : elf_.DynamicSymbols()) {
        std::string name = elf_.DynamicString(symbol.st_name);
        if (symbol.st_shndx != SHN_UNDEF && ELF64_ST_BIND(symbol.st_info) != STB_LOCAL &&
            linkers.count(name) == 0) {
            exported.insert(name);
        }
    }
    EXPECT_EQ(exported, interface);
}

// A program that is linked with the library asks for what it was linked with; whoever looks a
// function up by its name alone finds it, whatever its version.
TEST_P(SharedObjectTest, VersionsWhatThePublicHeaderDeclares) {
    std::ifstream in("include/hakmem/hakmem.h");
    const std::string header{std::istreambuf_iterator<char>(in), {}};
    ASSERT_NE(header, "");
    void *library = dlopen((std::string("./") + GetParam()).c_str(), RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(library, nullptr) << dlerror();
    size_t of_header = 0;
    for (const Elf64_Sym &symbol : elf_.DynamicSymbols()) {
        const std::string name = elf_.DynamicString(symbol.st_name);
        if (ELF64_ST_TYPE(symbol.st_info) != STT_FUNC || symbol.st_shndx == SHN_UNDEF) {
            continue;
        }
        void *const function = dlsym(library, name.c_str());
        const bool own = name.rfind("hak_", 0) == 0;
        const bool declared = own && (header.find(" " + name + "(") != std::string::npos ||
                                      header.find("*" + name + "(") != std::string::npos);
        of_header += declared;
        EXPECT_EQ(dlvsym(library, name.c_str(), "HAKMEM_1"), declared ? function : nullptr) << name;
        EXPECT_EQ(dlvsym(library, name.c_str(), "HAKMEM_PRIVATE"),
                  own && !declared ? function : nullptr)
            << name;
        EXPECT_NE(function, nullptr) << name;
    }
    EXPECT_GE(of_header, 3u);
}

TEST_P(SharedObjectTest, IsNamedForItsInterface) {
    for (const Elf64_Dyn &entry : elf_.Dynamic()) {
        if (entry.d_tag == DT_SONAME) {
            EXPECT_EQ(elf_.DynamicString(entry.d_un.d_val), GetParam() + std::string(".1"));
            return;
        }
    }
    FAIL() << "no DT_SONAME";
}

TEST_P(SharedObjectTest, NeedsLibcOnly) {
    std::vector<std::string> needed;
    for (const Elf64_Dyn &entry : elf_.Dynamic()) {
        if (entry.d_tag == DT_NEEDED) {
            needed.push_back(elf_.DynamicString(entry.d_un.d_val));
        }
    }
    EXPECT_EQ(needed, std::vector<std::string>{"libc.so.6"});
    // Symbols of the C++ runtime are weak.
    for (const Elf64_Sym &symbol : elf_.DynamicSymbols()) {
        std::string name = elf_.DynamicString(symbol.st_name);
        bool of_cxx = name.rfind("_Z", 0) == 0 || name.rfind("__cxa_", 0) == 0 ||
                      name.rfind("__gxx", 0) == 0 || name.rfind("_Unwind", 0) == 0;
        if (symbol.st_shndx == SHN_UNDEF && of_cxx) {
            EXPECT_EQ(ELF64_ST_BIND(symbol.st_info), STB_WEAK) << name;
        }
    }
}

TEST_P(SharedObjectTest, IsHardenedAndSmallInStaticTls) {
    bool relro = false;
    bool stack = false;
    for (const Elf64_Phdr &segment : elf_.Segments()) {
        if (segment.p_type == PT_TLS) {
            EXPECT_LE(segment.p_memsz, 128u); // what dlopen() has room for is above 1 KiB
        }
        if (segment.p_type == PT_LOAD) {
            EXPECT_NE(segment.p_flags & (PF_W | PF_X), unsigned{PF_W | PF_X});
        }
        if (segment.p_type == PT_GNU_STACK) {
            stack = true;
            EXPECT_EQ(segment.p_flags & PF_X, 0u);
        }
        relro |= segment.p_type == PT_GNU_RELRO;
    }
    EXPECT_TRUE(relro);
    EXPECT_TRUE(stack);
    bool now = false;
    for (const Elf64_Dyn &entry : elf_.Dynamic()) {
        EXPECT_NE(entry.d_tag, DT_TEXTREL);
        if (entry.d_tag == DT_FLAGS) {
            EXPECT_EQ(entry.d_un.d_val & DF_TEXTREL, 0u);
            now |= (entry.d_un.d_val & DF_BIND_NOW) != 0;
        }
        now |= entry.d_tag == DT_BIND_NOW;
    }
    EXPECT_TRUE(now);
}

// The conditions of invariant checks, as their texts stand in the object: C expressions.
std::set<std::string> Conditions(const Elf &elf) {
    static const std::regex expression(R"(^[A-Za-z_(!].*(->| == | != | <= | >= | < | && ).*)");
    std::set<std::string> found;
    for (const std::string &text : elf.Strings()) {
        if (std::regex_search(text, expression)) {
            found.insert(text);
        }
    }
    return found;
}

TEST(ReleaseTest, HasNoInvariantChecks) {
    EXPECT_FALSE(Conditions(Elf(kDebug)).empty()) << "this test would not see them";
    for (const char *release : kReleases) {
        ASSERT_TRUE(Elf(release).Ok()) << release;
        EXPECT_EQ(Conditions(Elf(release)), std::set<std::string>()) << release;
    }
}

TEST(ReleaseTest, HasNoPathsOfTheBuild) {
    for (const char *release : kReleases) {
        for (const std::string &text : Elf(release).Strings()) {
            EXPECT_EQ(text.find("boxes/"), std::string::npos) << release << ": " << text;
            EXPECT_EQ(text.find("fronts/"), std::string::npos) << release << ": " << text;
            EXPECT_EQ(text.find("/proc/self/cwd"), std::string::npos) << release << ": " << text;
            EXPECT_EQ(text.find("__PRETTY_FUNCTION__"), std::string::npos)
                << release << ": " << text;
        }
    }
}

TEST_P(SharedObjectTest, PreloadsIntoACProgramWithoutTheCxxLibrary) {
    std::string command =
        std::string("LD_PRELOAD=./") + GetParam() + " fronts/libc/hit_path_calls maps";
    const auto [maps, ending] = shell::Run(command);
    EXPECT_EQ(ending, "exit 0");
    EXPECT_NE(maps.find(GetParam()), std::string::npos) << maps;
    EXPECT_EQ(maps.find("libstdc++"), std::string::npos) << maps;
    EXPECT_EQ(maps.find("[heap]"), std::string::npos) << "something was served by libc:\n" << maps;
}

// --- As a library among others, with dlopen(): this program has another malloc.

struct Interface {
    void *(*malloc)(size_t);
    void *(*realloc)(void *, size_t);
    void *(*calloc)(size_t, size_t);
    void (*free)(void *);
    size_t (*usable)(void *);
    const char *(*flavour)();
};

template <typename Fn> void Find(void *library, const char *name, Fn *fn) {
    *fn = reinterpret_cast<Fn>(dlsym(library, name));
    ASSERT_NE(*fn, nullptr) << name;
}

bool Use(const Interface &lib) {
    for (size_t n = 1; n < 3000000; n = n * 3 / 2 + 1) {
        char *p = static_cast<char *>(lib.malloc(n));
        memset(p, 5, n);
        p = static_cast<char *>(lib.realloc(p, 2 * n));
        // Only the library's own blocks have a size there: another malloc's would end the program.
        if (lib.usable(p) < 2 * n || p[n - 1] != 5) {
            return false;
        }
        p = static_cast<char *>(lib.realloc(p, n / 2 + 1));
        lib.free(p);
        lib.free(lib.calloc(3, n));
    }
    return true;
}

struct Waiting {
    pthread_barrier_t barrier;
    Interface lib;
    bool ok;
};

TEST_P(SharedObjectTest, MayBeOpenedByARunningProgram) {
    // A thread from before has to find its thread-local pointer set.
    Waiting waiting = {};
    pthread_barrier_init(&waiting.barrier, nullptr, 2);
    pthread_t thread;
    ASSERT_EQ(pthread_create(
                  &thread, nullptr,
                  [](void *arg) -> void * {
                      Waiting *w = static_cast<Waiting *>(arg);
                      pthread_barrier_wait(&w->barrier);
                      w->ok = Use(w->lib);
                      return nullptr;
                  },
                  &waiting),
              0);
    std::string path = std::string("./") + GetParam();
    void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(library, nullptr) << dlerror();
    Find(library, "malloc", &waiting.lib.malloc);
    Find(library, "realloc", &waiting.lib.realloc);
    Find(library, "calloc", &waiting.lib.calloc);
    Find(library, "free", &waiting.lib.free);
    Find(library, "malloc_usable_size", &waiting.lib.usable);
    Find(library, "hak_flavour", &waiting.lib.flavour);
    EXPECT_EQ("lib" + std::string(waiting.lib.flavour()) + ".so", GetParam());
    EXPECT_NE(reinterpret_cast<void *>(waiting.lib.malloc), dlsym(RTLD_DEFAULT, "malloc"));
    EXPECT_TRUE(Use(waiting.lib));
    // Its dlopen() leaves the names of libc's functions alone here.
    void *(*open)(const char *, int);
    Find(library, "dlopen", &open);
    void *libc = open("libc.so.6", RTLD_NOW | RTLD_DEEPBIND);
    ASSERT_NE(libc, nullptr) << dlerror();
    EXPECT_EQ(dlsym(libc, "malloc"), dlsym(RTLD_DEFAULT, "malloc"));
    EXPECT_EQ(dlsym(libc, "free"), dlsym(RTLD_DEFAULT, "free"));
    EXPECT_NE(reinterpret_cast<void *>(open), dlsym(libc, "dlopen"));
    pthread_barrier_wait(&waiting.barrier);
    pthread_join(thread, nullptr);
    EXPECT_TRUE(waiting.ok);
    // The library stays when it is closed: blocks are in use, and threads will call it as they
    // exit.
    char *block = static_cast<char *>(waiting.lib.malloc(100));
    ASSERT_EQ(pthread_create(
                  &thread, nullptr,
                  [](void *arg) -> void * {
                      Waiting *w = static_cast<Waiting *>(arg);
                      w->ok = Use(w->lib);
                      pthread_barrier_wait(&w->barrier);
                      pthread_barrier_wait(&w->barrier);
                      return nullptr;
                  },
                  &waiting),
              0);
    pthread_barrier_wait(&waiting.barrier);
    EXPECT_EQ(dlclose(library), 0);
    void *again = dlopen(path.c_str(), RTLD_NOW | RTLD_NOLOAD);
    ASSERT_NE(again, nullptr) << "the library is gone";
    pthread_barrier_wait(&waiting.barrier);
    pthread_join(thread, nullptr);
    waiting.lib.free(block);
    pthread_barrier_destroy(&waiting.barrier);
}

} // namespace
