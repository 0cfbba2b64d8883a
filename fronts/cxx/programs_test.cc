// SPDX-License-Identifier: Apache-2.0
// Programs as users build them: each way to link a program with the allocator, and programs that
// bring operators, a malloc or a C++ library of their own.
//
// Compilers and linkers are those of the machine. What is not installed, and what the machine
// cannot link or run without the allocator either, is skipped and says so.
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <map>
#include <string>
#include <vector>

#include "fronts/libc/shell.h"
#include "gtest/gtest.h"

namespace {

const char kPrograms[] = "fronts/cxx/programs/";

// All compilers and linkers for the production flavour, the first of each for the others: what is
// linked has the same symbols in all.
std::vector<const char *> Some(std::vector<const char *> all) {
    if (std::string(HAK_FLAVOUR) != "hakmem_c23") {
        all.resize(1);
    }
    return all;
}

struct Result {
    bool ok;
    std::string output;
};

Result Shell(const std::string &command) {
    shell::Outcome outcome = shell::Run(command + " 2>&1");
    return {outcome.ending == "exit 0",
            "$ " + command + "\n" + outcome.text + outcome.ending + "\n"};
}

bool Installed(const std::string &program) {
    static std::map<std::string, bool> known;
    auto found = known.find(program);
    if (found == known.end()) {
        found = known.emplace(program, Shell("command -v " + program).ok).first;
    }
    return found->second;
}

std::string Root() {
    static const std::string root = [] {
        char *path = realpath(".", nullptr);
        std::string text = path;
        free(path);
        return text;
    }();
    return root;
}

std::string Archive() {
    return Root() + "/lib" HAK_FLAVOUR ".a";
}

std::string Shared() {
    return Root() + "/lib" HAK_FLAVOUR ".so";
}

// A path for what is built, of its own for each test.
std::string Output(const std::string &name) {
    const testing::TestInfo *test = testing::UnitTest::GetInstance()->current_test_info();
    std::string path = std::string(test->test_suite_name()) + "." + test->name() + "." + name;
    for (char &c : path) {
        c = c == '/' ? '_' : c;
    }
    return testing::TempDir() + "/" + path;
}

const char kNothing[] = ""; // in place of the allocator

// A command line with $A (the archive), $L (what links the shared object), $S (the source) and $O.
std::string Fill(std::string line, const std::string &archive, const std::string &shared,
                 const std::string &source, const std::string &output) {
    const std::map<std::string, std::string> values = {
        {"$A", archive}, {"$L", shared}, {"$S", source}, {"$O", output}};
    for (const auto &[name, value] : values) {
        for (size_t at; (at = line.find(name)) != std::string::npos;) {
            line.replace(at, name.size(), value);
        }
    }
    return line;
}

std::string LinkShared() {
    return "-L" + Root() + " -l" HAK_FLAVOUR " -Wl,-rpath," + Root();
}

// --- Each way to link.

struct Way {
    const char *name;
    const char *line;
    const char *source; // in kPrograms
};

// The ways of docs/use.md have to work whatever the compiler and the linker.
const Way kWays[] = {
    {"archive", "$C -O2 $S $A -o $O", "served.c"},
    {"archive_strdup", "$C -O2 -DSTRDUP $S -Wl,-u,malloc $A -o $O", "served.c"},
    {"archive_first", "$C -O2 -Wl,-u,malloc $A -x c $S -o $O", "served.c"},
    {"archive_lto", "$C -O2 -flto $S -Wl,-u,malloc $A -o $O", "served.c"},
    {"archive_lto_strdup", "$C -O2 -flto -DSTRDUP $S -Wl,-u,malloc $A -o $O", "served.c"},
    {"archive_whole", "$C -O2 -DSTRDUP $S -Wl,--whole-archive $A -Wl,--no-whole-archive -o $O",
     "served.c"},
    {"static", "$C -O2 -static $S $A -o $O", "served.c"},
    {"static_strdup", "$C -O2 -static -DSTRDUP $S -Wl,-u,malloc $A -o $O", "served.c"},
    {"static_pie", "$C -O2 -static-pie -fPIE $S $A -o $O", "served.c"},
    {"static_lto", "$C -O2 -static -flto $S -Wl,-u,malloc $A -o $O", "served.c"},
    {"no_pie", "$C -O2 -no-pie -fno-pie $S $A -o $O", "served.c"},
    {"shared", "$C -O2 $S -Wl,--no-as-needed $L -o $O", "served.c"},
    {"shared_strdup", "$C -O2 -DSTRDUP $S -Wl,--no-as-needed $L -o $O", "served.c"},
    {"shared_lto", "$C -O2 -flto $S -Wl,--no-as-needed $L -o $O", "served.c"},
    {"shared_as_needed", "$C -O2 $S -Wl,--as-needed $L -o $O", "served.c"},
    {"cxx_archive", "$X -O2 -x c++ $S -x none $A -o $O", "served.c"},
    {"cxx_archive_first", "$X -O2 -Wl,-u,malloc $A -x c++ $S -o $O", "served.c"},
    {"cxx_archive_lto", "$X -O2 -flto -x c++ $S -x none -Wl,-u,malloc $A -o $O", "served.c"},
    {"cxx_archive_whole",
     "$X -O2 -x c++ $S -x none -Wl,--whole-archive $A -Wl,--no-whole-archive -o $O", "served.c"},
    {"cxx_static", "$X -O2 -static -x c++ $S -x none $A -o $O", "served.c"},
    {"cxx_static_pie", "$X -O2 -static-pie -fPIE -x c++ $S -x none $A -o $O", "served.c"},
    {"cxx_static_lto", "$X -O2 -static -flto -x c++ $S -x none -Wl,-u,malloc $A -o $O", "served.c"},
    {"cxx_static_library", "$X -O2 -static-libstdc++ -x c++ $S -x none $A -o $O", "served.c"},
    {"cxx_shared", "$X -O2 -x c++ $S -x none -Wl,--no-as-needed $L -o $O", "served.c"},
};

class LinkTest : public testing::TestWithParam<std::tuple<const char *, const char *, Way>> {};

INSTANTIATE_TEST_SUITE_P(Ways, LinkTest,
                         testing::Combine(testing::ValuesIn(Some({"gcc", "clang"})),
                                          testing::ValuesIn(Some({"bfd", "gold", "lld", "mold"})),
                                          testing::ValuesIn(kWays)),
                         [](const testing::TestParamInfo<LinkTest::ParamType> &param) {
                             return std::string(std::get<0>(param.param)) + "_" +
                                    std::get<1>(param.param) + "_" + std::get<2>(param.param).name;
                         });

// The command line of a way; $A and $L are left in it.
std::string Line(const std::string &compiler, const std::string &linker, const Way &way) {
    std::string line = way.line;
    const std::map<std::string, std::string> compilers = {
        {"$C", compiler}, {"$X", compiler == "gcc" ? "g++" : "clang++"}};
    for (const auto &[name, value] : compilers) {
        if (line.rfind(name, 0) == 0) {
            line.replace(0, name.size(), value + " -fuse-ld=" + linker);
        }
    }
    return line;
}

TEST_P(LinkTest, IsServed) {
    const auto &[compiler, linker, way] = GetParam();
    for (const std::string &program : {std::string(compiler), std::string("ld.") + linker}) {
        if (!Installed(program)) {
            GTEST_SKIP() << program << " is not installed";
        }
    }
    const std::string line = Line(compiler, linker, way);
    const std::string source = kPrograms + std::string(way.source);
    Result built = Shell(Fill(line, Archive(), LinkShared(), source, Output("served")));
    if (!built.ok) {
        Result bare = Shell(Fill(line, kNothing, kNothing, source, Output("bare")));
        if (!bare.ok) {
            GTEST_SKIP() << "not without the allocator either: " << bare.output;
        }
    }
    ASSERT_TRUE(built.ok) << built.output;
    if (built.output.find("warning") != std::string::npos) {
        Result bare = Shell(Fill(line, kNothing, kNothing, source, Output("bare")));
        EXPECT_NE(bare.output.find("warning"), std::string::npos) << built.output;
        unlink(Output("bare").c_str());
    }
    Result run = Shell(Output("served"));
    EXPECT_TRUE(run.ok) << run.output;
    EXPECT_NE(run.output.find("of libc: 0 of 100"), std::string::npos) << built.output + run.output;
    unlink(Output("served").c_str());
}

// A library that the test above would find at fault.
TEST(LinkWithoutTest, IsServedByLibc) {
    for (const char *compiler : {"gcc", "gcc -DSTRDUP", "g++ -x c++"}) {
        for (const char *option : {" ", " -static ", " -static-pie "}) {
            Result run = Shell(std::string(compiler) + " -O2" + option + kPrograms +
                               "served.c -o " + Output("bare") + " && " + Output("bare"));
            EXPECT_TRUE(run.ok) << run.output;
            EXPECT_NE(run.output.find("of libc: 100 of 100"), std::string::npos) << run.output;
        }
    }
}

// --- Programs that bring something of their own.

struct Program {
    const char *name;
    const char *source;
    const char *options;
    bool archive; // whether it can be linked with the archive: not with a second malloc
};

const Program kOwn[] = {
    {"own_new", "own_new.cc", "", true},
    {"own_array_new", "own_array_new.cc", "", true},
    {"new_alignment", "new_alignment.cc", "", true},
    {"own_malloc", "own_malloc.cc", "-rdynamic", false},
    {"own_malloc_and_operators", "own_malloc.cc", "-rdynamic -DOPERATORS", false},
};

const Way kRuns[] = {
    {"preloaded", "", nullptr},
    {"shared", "-Wl,--no-as-needed $L", nullptr},
    {"archive", "$A", nullptr},
    {"static", "-static $A", nullptr},
    {"static_pie", "-static-pie -fPIE $A", nullptr},
    {"static_library", "-static-libstdc++ $A", nullptr},
};

std::vector<const char *> Compilers() {
    return Some({"g++", "clang++", "clang++ -stdlib=libc++"});
}

class OwnTest : public testing::TestWithParam<std::tuple<const char *, Program, Way>> {};

INSTANTIATE_TEST_SUITE_P(Programs, OwnTest,
                         testing::Combine(testing::ValuesIn(Compilers()), testing::ValuesIn(kOwn),
                                          testing::ValuesIn(kRuns)),
                         [](const testing::TestParamInfo<OwnTest::ParamType> &param) {
                             std::string compiler = std::get<0>(param.param);
                             compiler = compiler == "g++"       ? "gcc"
                                        : compiler == "clang++" ? "clang"
                                                                : "libcxx";
                             return compiler + "_" + std::get<1>(param.param).name + "_" +
                                    std::get<2>(param.param).name;
                         });

TEST_P(OwnTest, IsAsWithoutTheAllocator) {
    const auto &[compiler, program, way] = GetParam();
    const std::string rest = way.line;
    const bool archive = rest.find("$A") != std::string::npos;
    if (archive && !program.archive) {
        GTEST_SKIP() << "a program has one malloc";
    }
    const std::string line = std::string(compiler) + " -std=c++17 -O1 -fno-builtin " +
                             "-fsized-deallocation " + program.options + " $S " + rest + " -o $O";
    const std::string source = kPrograms + std::string(program.source);
    const std::string bare = Fill(line, kNothing, kNothing, source, Output("bare"));
    Result built = Shell(Fill(line, Archive(), LinkShared(), source, Output("own")));
    if (!built.ok && !Shell(bare).ok) {
        GTEST_SKIP() << "not without the allocator either: " << built.output;
    }
    ASSERT_TRUE(built.ok) << built.output;
    // LLVM's library rounds alignments up to 8 first.
    const bool differs = std::string(program.name) == "new_alignment" &&
                         std::string(compiler).find("libc++") != std::string::npos;
    if (rest.empty() && !differs) {
        Result without = Shell(bare + " && " + Output("bare"));
        EXPECT_TRUE(without.ok) << "without the allocator: " << without.output;
        unlink(Output("bare").c_str());
    }
    const std::string environment = rest.empty() ? "env LD_PRELOAD=" + Shared() + " " : "";
    Result with = Shell(environment + Output("own"));
    EXPECT_TRUE(with.ok) << with.output;
    EXPECT_EQ(with.output.find("hakmem:"), std::string::npos) << with.output;
    unlink(Output("own").c_str());
}

// --- C++ that comes to a C program later.

class PluginTest : public testing::TestWithParam<const char *> {
  protected:
    // Builds a plug-in, by one of Compilers(); false if it cannot be.
    static bool Build(const std::string &compiler, const std::string &output) {
        return Shell(compiler + " -std=c++17 -O1 -fsized-deallocation -shared -fPIC " + kPrograms +
                     "plugin.cc -o " + output)
            .ok;
    }
    // Runs the host with the plug-ins, preloaded or with the archive in it.
    static void Run(const std::string &plugins) {
        const std::string host = Output("host");
        Result built = Shell(std::string("gcc -O1 ") + kPrograms + "plugin_host.c -ldl -o " + host);
        ASSERT_TRUE(built.ok) << built.output;
        Result without = Shell(host + plugins);
        EXPECT_TRUE(without.ok) << without.output;
        Result preloaded = Shell("env LD_PRELOAD=" + Shared() + " " + host + plugins);
        EXPECT_TRUE(preloaded.ok) << preloaded.output;
        for (const char *dynamic : {"", "-rdynamic "}) {
            built = Shell(std::string("gcc -O1 ") + dynamic + kPrograms + "plugin_host.c -ldl " +
                          Archive() + " -o " + host);
            ASSERT_TRUE(built.ok) << built.output;
            Result linked = Shell(host + plugins);
            EXPECT_TRUE(linked.ok) << dynamic << linked.output;
        }
    }
};

INSTANTIATE_TEST_SUITE_P(Compilers, PluginTest, testing::ValuesIn(Compilers()),
                         [](const testing::TestParamInfo<const char *> &param) {
                             std::string compiler = param.param;
                             return compiler == "g++"       ? "gcc"
                                    : compiler == "clang++" ? "clang"
                                                            : "libcxx";
                         });

TEST_P(PluginTest, OutOfMemoryIsAnException) {
    const std::string plugin = Output("plugin.so");
    if (!Build(GetParam(), plugin)) {
        GTEST_SKIP() << GetParam() << " cannot build it";
    }
    Run(" " + plugin);
}

TEST(PluginsTest, EachHasItsOwnLibrary) {
    const std::string gnu = Output("gnu.so");
    const std::string llvm = Output("llvm.so");
    const std::string command = std::string(" -std=c++17 -O1 -fsized-deallocation -shared -fPIC ") +
                                kPrograms + "plugin.cc -o ";
    if (!Shell("g++" + command + gnu).ok || !Shell("clang++ -stdlib=libc++" + command + llvm).ok) {
        GTEST_SKIP() << "g++ or LLVM's C++ library is not installed";
    }
    const std::string host = Output("host");
    ASSERT_TRUE(Shell(std::string("gcc -O1 ") + kPrograms + "plugin_host.c -ldl -o " + host).ok);
    // The other way round LLVM's unwinder is called by GNU's library, with any malloc.
    Result without = Shell(host + " " + gnu + " " + llvm);
    EXPECT_TRUE(without.ok) << "without the allocator: " << without.output;
    Result with = Shell("env LD_PRELOAD=" + Shared() + " " + host + " " + gnu + " " + llvm);
    EXPECT_TRUE(with.ok) << with.output;
}

// --- A library in front.

TEST(TracerTest, SeesEveryBlock) {
    const std::string tracer = Output("tracer.so");
    const std::string traced = Output("traced");
    Result built = Shell(std::string("gcc -O1 -fno-builtin -shared -fPIC ") + kPrograms +
                         "tracer.c -ldl -o " + tracer + " && g++ -std=c++17 -O1 -fno-builtin " +
                         kPrograms + "traced.cc -ldl -o " + traced);
    ASSERT_TRUE(built.ok) << built.output;
    Result without = Shell("env LD_PRELOAD=" + tracer + " " + traced);
    EXPECT_TRUE(without.ok) << without.output;
    Result with = Shell("env LD_PRELOAD=" + tracer + ":" + Shared() + " " + traced);
    EXPECT_TRUE(with.ok) << with.output;
}

} // namespace
