// SPDX-License-Identifier: Apache-2.0
// Kinds of misuse by sizes, states of the heap and threads (misuse_kinds_program.c), with each
// flavour and with libc's malloc: a table of docs/misuse.md says where libc stops and a flavour
// does not.
#include <stddef.h>

#include <algorithm>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "fronts/libc/document_table.h"
#include "fronts/libc/shell.h"
#include "gtest/gtest.h"

namespace {

constexpr char kProgram[] = "fronts/libc/misuse_kinds_program";
const char *const kFlavours[] = {HAK_FLAVOURS};

struct Case {
    std::string kind, size, state, thread;
    bool operator<(const Case &other) const {
        return std::tie(kind, size, state, thread) <
               std::tie(other.kind, other.size, other.state, other.thread);
    }
};
using Outcomes = std::map<Case, std::string>;

Outcomes RunAll(const std::string &settings) {
    Outcomes outcomes;
    // A pause of the machine is not to change what is in a cache.
    shell::Outcome run = shell::Run("HAKMEM_DECAY_MS=-1 " + settings + " " + kProgram);
    EXPECT_EQ(run.ending, "exit 0");
    std::istringstream lines(run.text);
    Case one;
    for (std::string outcome;
         lines >> one.kind >> one.size >> one.state >> one.thread >> outcome;) {
        EXPECT_NE(outcome, "failed") << one.kind << " " << one.size << " " << one.state;
        outcomes[one] = outcome;
    }
    EXPECT_GT(outcomes.size(), 900u);
    return outcomes;
}

const Outcomes &OfLibc() {
    static const Outcomes outcomes = RunAll("");
    return outcomes;
}

const Outcomes &Of(const std::string &flavour) {
    static std::map<std::string, Outcomes> known;
    auto found = known.find(flavour);
    if (found == known.end()) {
        found = known.emplace(flavour, RunAll("LD_PRELOAD=$PWD/lib" + flavour + ".so")).first;
    }
    return found->second;
}

// What the table is to say of a kind.
std::string Word(const Outcomes &outcomes, const std::string &kind) {
    size_t stopped = 0;
    size_t silent = 0;
    bool only_large = true;
    for (const auto &[one, outcome] : outcomes) {
        if (one.kind == kind && OfLibc().at(one) == "stopped") {
            if (outcome == "silent" || outcome == "damaged") {
                silent++;
                only_large = only_large && one.state == "large";
            } else {
                stopped++;
            }
        }
    }
    return silent == 0 ? "yes" : only_large ? "not in large heaps" : stopped == 0 ? "no" : "some";
}

class MisuseKinds : public testing::TestWithParam<const char *> {};
INSTANTIATE_TEST_SUITE_P(Flavours, MisuseKinds, testing::ValuesIn(kFlavours),
                         [](const testing::TestParamInfo<const char *> &param) {
                             return std::string(param.param);
                         });

// Whatever the size, the state of the heap and the thread.
TEST_P(MisuseKinds, NoBlockHasTwoOwnersAfterADoubleFreeAtOnce) {
    for (const auto &[one, outcome] : Of(GetParam())) {
        if (std::set<std::string>{"twice", "twice_by_delete", "twice_by_sized_delete",
                                  "twice_mixed", "twice_reused", "freed_after_realloc_moved",
                                  "freed_after_realloc_to_nothing", "realloc_of_freed",
                                  "realloc_of_freed_same_size", "unaligned", "unaligned_by_8",
                                  "unaligned_sized_delete", "unaligned_realloc"}
                .count(one.kind) != 0) {
            EXPECT_TRUE(outcome == "stopped" || outcome == "none")
                << one.kind << ", " << one.size << " B, " << one.state << " heap, " << one.thread
                << " thread: " << outcome;
        }
    }
}

TEST_P(MisuseKinds, AreStoppedWhereLibcStopsThemOrAreInTheTable) {
    const std::vector<document_table::Row> table =
        document_table::Below("Where glibc stops", "docs/misuse.md");
    ASSERT_GT(table.size(), 2u);
    const auto mine =
        std::find(table[0].begin(), table[0].end(), "`" + std::string(GetParam()) + "`");
    ASSERT_NE(mine, table[0].end());
    const auto column = static_cast<size_t>(mine - table[0].begin());
    ASSERT_NE(column, 0u);
    ASSERT_EQ(table[0][1], "name");
    std::map<std::string, std::string> said;
    for (size_t i = 2; i < table.size(); i++) { // below the names and the rule
        ASSERT_GT(table[i].size(), column) << table[i][0];
        said[table[i][1].substr(1, table[i][1].size() - 2)] = table[i][column]; // within `s
    }
    std::set<std::string> kinds;
    for (const auto &[one, outcome] : OfLibc()) {
        kinds.insert(one.kind);
    }
    for (const std::string &kind : kinds) {
        const std::string word = Word(Of(GetParam()), kind);
        const auto row = said.find(kind);
        EXPECT_EQ(row == said.end() ? "yes" : row->second, word) << kind;
    }
    for (const auto &[kind, word] : said) {
        EXPECT_EQ(kinds.count(kind), 1u) << kind << " is no kind";
    }
}

} // namespace
