// SPDX-License-Identifier: Apache-2.0
// The length of the hit path, counted in the library that ships: a child that has it preloaded is
// stepped through one call, instruction by instruction.
//
// The instructions within the library are counted, the `ret` included. The data cache lines are
// those of memory operands, which are read from objdump's disassembly, without the stack and
// without the block's own line, which the block's user has touched or is about to touch. The same
// is done with a program that has the library linked in, which saves the line by which a shared
// object finds its thread-local storage.
//
// The hit path does not depend on the front of a group: the code is the same, byte for byte, in a
// flavour with other fronts, and the same instructions run whatever the settings are.
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"

namespace {

constexpr char kLibrary[] = "libhakmem_c23.so";
constexpr char kCalls[] = "fronts/libc/hit_path_calls";
constexpr int kUnseen = 2; // instructions of a free that does not look at the block, above others
constexpr char kLinked[] = "fronts/libc/hit_path_calls_linked";

// Address within the library -> the instruction there, as objdump prints it.
using Disassembly = std::map<uint64_t, std::string>;

Disassembly RunObjdump(const std::string &arguments) {
    Disassembly code;
    FILE *in = popen(("objdump -d " + arguments).c_str(), "r");
    char line[512];
    while (in != nullptr && fgets(line, sizeof line, in) != nullptr) {
        char *end;
        uint64_t address = strtoull(line, &end, 16);
        if (end != line && *end == ':') {
            std::string text(end + 1);
            text.erase(text.find_last_not_of(" \t\n") + 1);
            code[address] = text.substr(text.find_first_not_of(" \t"));
        }
    }
    EXPECT_TRUE(in != nullptr && pclose(in) == 0) << "objdump";
    return code;
}

const Disassembly &Disassemble(const std::string &library) {
    static std::map<std::string, Disassembly> known;
    auto found = known.find(library);
    if (found == known.end()) {
        found = known.emplace(library, RunObjdump("--no-show-raw-insn " + library)).first;
    }
    return found->second;
}

// A whole function, one instruction with its bytes a line, without the parts that depend on where
// things lie: the displacement of an operand relative to %rip, and the target of a jump out of the
// function.
std::vector<std::string> Function(const std::string &library, const std::string &name) {
    std::vector<std::string> lines;
    const Disassembly code = RunObjdump("--insn-width=16 --disassemble=" + name + " " + library);
    static const std::regex relative(R"(((?:[0-9a-f]{2} )*)((?:[0-9a-f]{2} ){3}[0-9a-f]{2})\s+\t)"
                                     R"((\S+ +)-?0x[0-9a-f]+(\(%rip\).*[^ ]) +# .*)");
    static const std::regex jump(R"(((?:[0-9a-f]{2} )*)((?:[0-9a-f]{2} ){3}[0-9a-f]{2})\s+\t)"
                                 R"(((?:addr32 )?\S+ +)[0-9a-f]+ <([^+>]*)>)");
    static const std::regex inside(R"(^(.*\t\S+ +)[0-9a-f]+ (<.*\+.*>)$)");
    for (const auto &[address, text] : code) {
        std::smatch match;
        if (std::regex_match(text, match, relative)) {
            lines.push_back(match[1].str() + "(4) " + match[3].str() + match[4].str());
        } else if (std::regex_match(text, match, jump)) {
            lines.push_back(match[1].str() + "(4) " + match[3].str() + "<" + match[4].str() + ">");
        } else {
            lines.push_back(std::regex_replace(text, inside, "$1$2"));
        }
    }
    return lines;
}

uint64_t Register(const user_regs_struct &regs, const std::string &name) {
    const std::map<std::string, uint64_t> values = {
        {"rax", regs.rax}, {"rbx", regs.rbx}, {"rcx", regs.rcx}, {"rdx", regs.rdx},
        {"rsi", regs.rsi}, {"rdi", regs.rdi}, {"rbp", regs.rbp}, {"rsp", regs.rsp},
        {"r8", regs.r8},   {"r9", regs.r9},   {"r10", regs.r10}, {"r11", regs.r11},
        {"r12", regs.r12}, {"r13", regs.r13}, {"r14", regs.r14}, {"r15", regs.r15},
    };
    auto found = values.find(name);
    EXPECT_NE(found, values.end()) << name;
    return found == values.end() ? 0 : found->second;
}

// The address of the instruction's memory operand, 0 if it has none, or none that it waits for.
// `base` is where the library is.
uint64_t Operand(const std::string &text, const user_regs_struct &regs, uint64_t base) {
    if (text.rfind("lea", 0) == 0 || text.rfind("nop", 0) == 0 || text.rfind("cs nop", 0) == 0 ||
        text.rfind("data16", 0) == 0 || text.rfind("prefetch", 0) == 0) {
        return 0;
    }
    static const std::regex relative(R"(\(%rip\).*# ([0-9a-f]+))");
    static const std::regex operand(
        R"((%fs:)?(-?0x[0-9a-f]+)?\((%[a-z0-9]+)?(?:,(%[a-z0-9]+),([1248]))?\))");
    std::smatch match;
    if (std::regex_search(text, match, relative)) {
        return base + strtoull(match[1].str().c_str(), nullptr, 16);
    }
    if (!std::regex_search(text, match, operand)) {
        return 0;
    }
    uint64_t address = match[1].matched ? regs.fs_base : 0;
    if (match[2].matched) {
        bool negative = match[2].str()[0] == '-';
        uint64_t offset = strtoull(match[2].str().c_str() + negative, nullptr, 16);
        address += negative ? -offset : offset;
    }
    if (match[3].matched) {
        address += Register(regs, match[3].str().substr(1));
    }
    if (match[4].matched) {
        address += Register(regs, match[4].str().substr(1)) *
                   strtoull(match[5].str().c_str(), nullptr, 10);
    }
    return address;
}

// Where the library lies in the process.
bool FindLibrary(pid_t pid, const std::string &library, uint64_t *from, uint64_t *to) {
    *from = *to = 0;
    FILE *maps = fopen(("/proc/" + std::to_string(pid) + "/maps").c_str(), "r");
    char line[512];
    while (maps != nullptr && fgets(line, sizeof line, maps) != nullptr) {
        uint64_t start;
        uint64_t end;
        if (strstr(line, library.c_str()) != nullptr &&
            sscanf(line, "%zx-%zx", &start, &end) == 2) {
            *from = *from == 0 ? start : *from;
            *to = end;
        }
    }
    if (maps != nullptr) {
        fclose(maps);
    }
    return *from != 0;
}

struct Path {
    int instructions = 0;
    std::set<uint64_t> lines; // cache lines of data read or written; prefetched ones do not count
    std::string text;         // what ran
};

int WaitForStop(pid_t pid) {
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFSTOPPED(status) ? WSTOPSIG(status) : -1;
}

// `setting`: NAME=VALUE for the child's environment. `state`: of the heap; see hit_path_calls.c. In
// the library, or in the program that has it in itself; then what counts are the instructions of
// the function `name`.
void Follow(const std::string &library, const std::string &setting, const char *call, size_t size,
            Path *path, const std::string &name = "", const char *state = nullptr) {
    const bool linked = !name.empty();
    const Disassembly code =
        linked ? RunObjdump("--no-show-raw-insn --disassemble=" + name + " " + library)
               : Disassemble(library);
    const char *program = linked ? library.c_str() : kCalls;
    std::string preload = linked ? "NOTHING=" : "LD_PRELOAD=./" + library;
    std::string number = std::to_string(size);
    pid_t pid = fork();
    if (pid == 0) {
        char *const arguments[] = {const_cast<char *>(program), const_cast<char *>(call),
                                   const_cast<char *>(number.c_str()), const_cast<char *>(state),
                                   nullptr};
        char *const environment[] = {const_cast<char *>(preload.c_str()),
                                     const_cast<char *>(setting.c_str()), nullptr};
        ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
        execve(program, arguments, environment);
        _exit(127);
    }
    ASSERT_GT(pid, 0);
    ASSERT_EQ(WaitForStop(pid), SIGTRAP) << "exec of " << program;
    ASSERT_EQ(ptrace(PTRACE_CONT, pid, nullptr, nullptr), 0);
    ASSERT_EQ(WaitForStop(pid), SIGTRAP) << "first breakpoint of " << call;
    uint64_t from;
    uint64_t to;
    ASSERT_TRUE(FindLibrary(pid, library, &from, &to)) << "not preloaded";
    bool done = false;
    uint64_t argument = 0; // of a free the block
    // Each round: where the child stands, then one instruction. The second breakpoint ends it.
    for (int steps = 0; !done && steps < 100000; steps++) {
        user_regs_struct regs;
        ASSERT_EQ(ptrace(PTRACE_GETREGS, pid, nullptr, &regs), 0);
        if (regs.rip >= from && regs.rip < to && (!linked || code.count(regs.rip - from) != 0)) {
            auto found = code.find(regs.rip - from);
            ASSERT_NE(found, code.end()) << std::hex << regs.rip - from;
            argument = path->instructions == 0 ? regs.rdi : argument;
            path->instructions++;
            uint64_t address = Operand(found->second, regs, from);
            bool on_stack = address >= regs.rsp - 4096 && address < regs.rsp + 65536;
            if (address != 0 && !on_stack) {
                path->lines.insert(address / 64);
            }
            char where[32];
            snprintf(where, sizeof where, "  %6zx: ", static_cast<size_t>(regs.rip - from));
            path->text += where + found->second + "\n";
        }
        errno = 0;
        uint64_t word = static_cast<uint64_t>(ptrace(PTRACE_PEEKTEXT, pid, regs.rip, nullptr));
        ASSERT_EQ(errno, 0);
        done = (word & 0xff) == 0xcc;
        if (done) {
            path->lines.erase(argument / 64);
            path->lines.erase(regs.rax / 64); // of a malloc the block
        } else {
            ASSERT_EQ(ptrace(PTRACE_SINGLESTEP, pid, nullptr, nullptr), 0);
            ASSERT_EQ(WaitForStop(pid), SIGTRAP);
        }
    }
    EXPECT_TRUE(done) << "no second breakpoint";
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
}

struct Bar {
    const char *call;
    size_t size;
    int instructions; // at most; 0: only reported
    size_t lines;     // likewise
};

class HitPathTest : public testing::TestWithParam<Bar> {};

// The bars of the project, and C++'s forms are no longer.
INSTANTIATE_TEST_SUITE_P(
    Calls, HitPathTest,
    testing::Values(Bar{"malloc", 0, 0, 0}, Bar{"malloc", 1, 14, 5}, Bar{"malloc", 16, 14, 5},
                    Bar{"malloc", 64, 14, 5}, Bar{"malloc", 128, 14, 5}, Bar{"malloc", 256, 14, 5},
                    Bar{"malloc", 1024, 14, 5}, Bar{"malloc", 2000, 14, 5},
                    Bar{"malloc", 32768, 0, 0}, Bar{"free", 1, 19, 5}, Bar{"free", 16, 19, 5},
                    Bar{"free", 64, 19, 5}, Bar{"free", 128, 19, 5}, Bar{"free", 256, 19, 5},
                    Bar{"free", 1024, 19, 5}, Bar{"free", 2000, 60, 7}, Bar{"free", 32768, 0, 0},
                    Bar{"calloc", 64, 0, 0}, Bar{"realloc", 64, 0, 0},
                    Bar{"aligned_alloc", 64, 0, 0}, Bar{"malloc_usable_size", 64, 0, 0},
                    Bar{"operator_new", 64, 14, 5}, Bar{"operator_delete", 64, 19, 5},
                    Bar{"operator_delete_sized", 64, 19, 5}),
    [](const testing::TestParamInfo<Bar> &param) {
        return std::string(param.param.call) + "_" + std::to_string(param.param.size);
    });

void Report(const Bar &bar, const Path &path) {
    printf("%-22s %6zu B: %3d instructions, %zu data cache lines\n", bar.call, bar.size,
           path.instructions, path.lines.size());
    EXPECT_GT(path.instructions, 3) << "the call did not get there";
    if (bar.instructions != 0) {
        EXPECT_LE(path.instructions, bar.instructions) << path.text;
        EXPECT_LE(path.lines.size(), bar.lines) << path.text;
    }
}

TEST_P(HitPathTest, IsShort) {
    Path path;
    ASSERT_NO_FATAL_FAILURE(Follow(kLibrary, "NONE=", GetParam().call, GetParam().size, &path));
    RecordProperty("instructions", path.instructions);
    RecordProperty("cache_lines", static_cast<int>(path.lines.size()));
    Report(GetParam(), path);
}

// Frees that are hits until the cache is full, and what it costs to make room: at most so many
// instructions a block. Blocks that are neighbours go back to their slab together.
TEST(FreesInARowTest, AreShort) {
    struct {
        const char *call;
        size_t size;
        int most;
    } const rows[] = {
        {"frees_up", 1024, 47},
        {"frees_down", 1024, 47},
        {"frees_mixed", 1024, 63},
    };
    for (const auto &row : rows) {
        Path path;
        ASSERT_NO_FATAL_FAILURE(Follow(kLibrary, "HAKMEM_DECAY_MS=-1", row.call, row.size, &path));
        int each = path.instructions / 1024;
        printf("%-12s %5zu B: %d instructions a block\n", row.call, row.size, each);
        EXPECT_GE(each, 17) << "fewer than those of a hit";
        EXPECT_LE(each, row.most) << row.call << " " << row.size;
    }
}

class LinkedHitPathTest : public testing::TestWithParam<Bar> {};

INSTANTIATE_TEST_SUITE_P(Calls, LinkedHitPathTest,
                         testing::Values(Bar{"malloc", 16, 14, 4}, Bar{"malloc", 256, 14, 4},
                                         Bar{"malloc", 1024, 14, 4}, Bar{"free", 16, 19, 4},
                                         Bar{"free", 256, 19, 4}, Bar{"free", 1024, 19, 4}),
                         [](const testing::TestParamInfo<Bar> &param) {
                             return std::string(param.param.call) + "_" +
                                    std::to_string(param.param.size);
                         });

TEST_P(LinkedHitPathTest, IsShort) {
    Path path;
    ASSERT_NO_FATAL_FAILURE(
        Follow(kLinked, "NONE=", GetParam().call, GetParam().size, &path, GetParam().call));
    Report(GetParam(), path);
}

// A hit is a hit in every state of the heap: there is no other way for a call whose cache can serve
// it, whatever the process could give back.
class EveryStateTest : public testing::TestWithParam<std::tuple<const char *, const char *>> {};

INSTANTIATE_TEST_SUITE_P(
    States, EveryStateTest,
    testing::Combine(testing::Values("libhakmem_c23.so", "libhakmem_classic.so",
                                     "libhakmem_c23_header.so"),
                     testing::Values("holes", "peak", "trimmed")),
    [](const testing::TestParamInfo<std::tuple<const char *, const char *>> &param) {
        std::string library = std::get<0>(param.param);
        library.resize(library.size() - 3);
        return library + "_" + std::get<1>(param.param);
    });

TEST_P(EveryStateTest, MakesNoHitLonger) {
    const std::string library = std::get<0>(GetParam());
    for (const char *call : {"malloc", "free"}) {
        Path fresh;
        ASSERT_NO_FATAL_FAILURE(Follow(library, "NONE=", call, 64, &fresh));
        EXPECT_GT(fresh.instructions, 3);
        Path path;
        ASSERT_NO_FATAL_FAILURE(
            Follow(library, "NONE=", call, 64, &path, "", std::get<1>(GetParam())));
        if (library == "libhakmem_c23_header.so") {
            // There a block at the start of a page takes another turn, of a few instructions more.
            EXPECT_LE(path.instructions, fresh.instructions + 8) << path.text;
        } else if (std::string(call) == "malloc") {
            EXPECT_EQ(path.text, fresh.text);
        } else { // a free in a large heap looks at the topmost block's place and not at the block
            EXPECT_LE(path.instructions, fresh.instructions + kUnseen) << path.text;
            EXPECT_LE(path.lines.size(), fresh.lines.size() + 1) << path.text; // at a line's end
        }
    }
}

class EveryFrontTest : public testing::TestWithParam<const char *> {};

INSTANTIATE_TEST_SUITE_P(Calls, EveryFrontTest,
                         testing::Values("malloc", "free", "operator_new", "operator_delete",
                                         "operator_delete_sized"),
                         [](const testing::TestParamInfo<const char *> &param) {
                             return std::string(param.param);
                         });

TEST_P(EveryFrontTest, SettingsChangeNothingOfAHit) {
    for (size_t size : {128, 256}) {
        Path preset;
        ASSERT_NO_FATAL_FAILURE(Follow(kLibrary, "NONE=", GetParam(), size, &preset));
        EXPECT_GT(preset.instructions, 3);
        for (const char *setting :
             {"HAKMEM_TINY_FRONT_C23_SIMPLE=0", "HAKMEM_TINY_FRONT_C23_SIMPLE=1",
              "HAKMEM_TINY_FRONT_C23_REFILL=16", "HAKMEM_TINY_FRONT_C23_REFILL=128"}) {
            Path path;
            ASSERT_NO_FATAL_FAILURE(Follow(kLibrary, setting, GetParam(), size, &path));
            EXPECT_EQ(path.text, preset.text) << setting << ", " << size << " B";
        }
    }
}

// While guards are on, or samples, which switch the same table, malloc takes the slow way, and free
// is the same hit. So seldom a guard meets none of these blocks.
TEST(ObservedTest, FreesAreTheSameHits) {
    for (const char *call : {"malloc", "free", "operator_delete", "operator_delete_sized"}) {
        Path off;
        ASSERT_NO_FATAL_FAILURE(Follow(kLibrary, "NONE=", call, 128, &off));
        Path on;
        ASSERT_NO_FATAL_FAILURE(Follow(kLibrary, "HAKMEM_GUARD=1000000000", call, 128, &on));
        if (std::string(call) == "malloc") {
            EXPECT_GT(on.instructions, off.instructions) << "the setting does nothing";
        } else {
            EXPECT_EQ(on.text, off.text) << call;
        }
    }
}

// Freed blocks are looked at, or compared with the topmost one and fetched.
TEST(EveryLookTest, TakesAFewInstructions) {
    for (const char *call : {"free", "operator_delete", "operator_delete_sized"}) {
        std::set<std::string> texts;
        for (const auto &[setting, most] :
             {std::pair{"HAKMEM_CHECK_FREES=0", 19 + kUnseen}, {"HAKMEM_CHECK_FREES=2", 19}}) {
            Path path;
            ASSERT_NO_FATAL_FAILURE(Follow(kLibrary, setting, call, 64, &path));
            EXPECT_GT(path.instructions, 3);
            EXPECT_LE(path.instructions, most) << path.text;
            EXPECT_LE(path.lines.size(), 6u) << path.text;
            texts.insert(path.text);
        }
        EXPECT_EQ(texts.size(), 2u) << call << ": the setting does nothing";
    }
}

TEST(EveryFlavourTest, HasTheSameHitPathToTheByte) {
    for (const char *name : {"malloc", "free", "_Znwm", "_ZdlPv", "_ZdlPvm"}) {
        const std::vector<std::string> ours = Function(kLibrary, name);
        ASSERT_GT(ours.size(), 5u) << name;
        EXPECT_NE(std::find_if(ours.begin(), ours.end(),
                               [](const std::string &line) {
                                   return line.find("(4) ") != std::string::npos;
                               }),
                  ours.end())
            << name << ": nothing that depends on a place; this test would not see it";
        EXPECT_EQ(Function("libhakmem_classic.so", name), ours) << name;
    }
    // The comparison can fail: the header strategy's free() is another function.
    EXPECT_NE(Function("libhakmem_c23_header.so", "free"), Function(kLibrary, "free"));
}

} // namespace
