// SPDX-License-Identifier: Apache-2.0
#include "boxes/elf_symbols/elf_symbols.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <dlfcn.h>
#include <fstream>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

namespace {

extern "C" __attribute__((noinline)) int function_of_the_test(int x) {
    __asm__ volatile("" : "+r"(x));
    return x * 3;
}

struct Symbols {
    Symbols() { open = elf_symbols_open(&symbols); }
    ~Symbols() {
        if (open) {
            elf_symbols_close(&symbols);
        }
    }
    std::vector<std::string> Names(std::vector<uintptr_t> pcs) {
        std::vector<struct elf_name> names;
        std::sort(pcs.begin(), pcs.end());
        for (uintptr_t pc : pcs) {
            names.push_back({.pc = pc, .start = 0, .name = nullptr, .length = 0});
        }
        elf_symbols_name(&symbols, names.data(), names.size());
        std::vector<std::string> answer;
        for (const struct elf_name &name : names) {
            answer.emplace_back(name.length != 0 ? std::string(name.name, name.length) : "");
        }
        return answer;
    }
    struct elf_symbols symbols;
    bool open;
};

template <typename T> uintptr_t AddressOf(T *function) {
    return reinterpret_cast<uintptr_t>(function);
}

TEST(ElfSymbols, NamesOfTheProgramAndOfLibraries) {
    Symbols symbols;
    ASSERT_TRUE(symbols.open);
    EXPECT_EQ(symbols.Names({AddressOf(&function_of_the_test) + 2})[0], "function_of_the_test");
    // A function of libc that is exported, and so has a name.
    void *exported = dlsym(RTLD_DEFAULT, "qsort_r");
    std::string name = symbols.Names({reinterpret_cast<uintptr_t>(exported) + 5})[0];
    EXPECT_TRUE(name.find("qsort_r") != std::string::npos) << name;
}

TEST(ElfSymbols, EveryExportedFunctionHasItsName) {
    Symbols symbols;
    for (const char *name : {"printf", "setlocale", "getaddrinfo", "qsort_r"}) {
        auto at = reinterpret_cast<uintptr_t>(dlsym(RTLD_DEFAULT, name));
        // If a function has several names, any of them is right.
        std::string found = symbols.Names({at + 1})[0];
        void *again = dlsym(RTLD_DEFAULT, found.c_str());
        EXPECT_TRUE(found.find(name) != std::string::npos ||
                    reinterpret_cast<uintptr_t>(again) == at)
            << name << " " << found;
    }
}

TEST(ElfSymbols, MappingsAreThoseOfTheProcess) {
    Symbols symbols;
    size_t found = elf_symbols_mapping_of(&symbols.symbols, AddressOf(&function_of_the_test));
    ASSERT_NE(found, 0u);
    const struct elf_mapping &mapping = symbols.symbols.mappings[found - 1];
    char path[4096] = {};
    ASSERT_GT(readlink("/proc/self/exe", path, sizeof path - 1), 0);
    EXPECT_STREQ(mapping.path, path);
    int local = 0;
    EXPECT_EQ(elf_symbols_mapping_of(&symbols.symbols, reinterpret_cast<uintptr_t>(&local)), 0u);
    EXPECT_EQ(elf_symbols_mapping_of(&symbols.symbols, 0), 0u);
    EXPECT_EQ(elf_symbols_mapping_of(&symbols.symbols, UINTPTR_MAX), 0u);
}

TEST(ElfSymbols, BuildIdIsTheOneThatReadelfPrints) {
    Symbols symbols;
    size_t found = elf_symbols_mapping_of(
        &symbols.symbols, reinterpret_cast<uintptr_t>(dlsym(RTLD_DEFAULT, "printf")));
    ASSERT_NE(found, 0u);
    const struct elf_mapping &mapping = symbols.symbols.mappings[found - 1];
    std::string id;
    for (unsigned i = 0; i < mapping.build_id_size; i++) {
        char hex[3];
        snprintf(hex, sizeof hex, "%02x", mapping.build_id[i]);
        id += hex;
    }
    std::string command = std::string("readelf -n ") + mapping.path + " 2>/dev/null";
    std::string truth;
    FILE *in = popen(command.c_str(), "r");
    char line[512];
    while (in != nullptr && fgets(line, sizeof line, in) != nullptr) {
        truth += line;
    }
    pclose(in);
    ASSERT_NE(mapping.build_id_size, 0u);
    EXPECT_NE(truth.find("Build ID: " + id), std::string::npos) << id << "\n" << truth;
}

TEST(ElfSymbols, CodeThatWasMadeHasTheNameThatItsCompilerWroteDown) {
    char *code = static_cast<char *>(mmap(nullptr, 8192, PROT_READ | PROT_WRITE | PROT_EXEC,
                                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    std::string path = "/tmp/perf-" + std::to_string(getpid()) + ".map";
    std::ofstream(path) << std::hex << reinterpret_cast<uintptr_t>(code) << " 100 js:~outer\n"
                        << reinterpret_cast<uintptr_t>(code + 0x100)
                        << " 40 LazyCompile:*a b file.js:3\n"
                        << "7f";
    Symbols symbols;
    auto at = reinterpret_cast<uintptr_t>(code);
    EXPECT_EQ(symbols.Names({at + 3, at + 0x13f, at + 0x140}),
              (std::vector<std::string>{"js:~outer", "LazyCompile:*a b file.js:3", ""}));
    unlink(path.c_str());
    munmap(code, 8192);
}

} // namespace
