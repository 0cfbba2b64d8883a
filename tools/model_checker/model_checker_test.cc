// SPDX-License-Identifier: Apache-2.0
#include "tools/model_checker/model_checker.h"

#include "tools/model_checker/toy.h"

#include <gtest/gtest.h>

namespace {

using model::Op;
using model::Program;

enum Kind { ADD, ADD_BADLY, ADD_LOCKED, MISUSE };

constexpr Op kAdd = {ADD};
constexpr Op kAddBadly = {ADD_BADLY};
constexpr Op kAddLocked = {ADD_LOCKED};
constexpr Op kMisuse = {MISUSE};

class Toy : public model::Checker {
  public:
    explicit Toy(std::vector<Program> programs, bool names_lock = true)
        : Checker(std::move(programs)) {
        toy_reset();
        cells(toy_counter(), 2, 1, "counter");
        if (names_lock) {
            cells(toy_lock(), 1, 1, "lock");
        }
        data(&added_, sizeof added_);
    }

    void unlocks_in_children() { has_fork_handler = true; }

  protected:
    void perform(const Op &op) override {
        switch (op.kind) {
        case ADD:
            toy_add();
            break;
        case ADD_BADLY:
            toy_add_badly();
            break;
        case ADD_LOCKED:
            if (!toy_add_locked()) {
                if (forked()) {
                    note("the lock stays taken in the child");
                }
                return;
            }
            break;
        default:
            fail("misuse");
        }
        added_++;
    }
    std::string name_of(const Op &op) const override {
        const char *const names[] = {"add", "add badly", "add locked", "misuse"};
        return names[op.kind];
    }
    void after_fork() override { toy_unlock(); }
    void at_end(bool is_child) override {
        // A thread that is gone may have added one in the middle of its operation.
        if (is_child ? toy_count() < added_ : toy_count() != added_) {
            note("an addition is lost");
        }
    }
    std::string describe() const override { return std::to_string(added_) + " additions\n"; }

  private:
    uint64_t added_ = 0; // operations that have ended
};

void expect_within(const std::string &text, const char *part) {
    EXPECT_NE(text.find(part), std::string::npos) << "no \"" << part << "\" in\n" << text;
}

TEST(ModelChecker, CountsTheStatesOfTwoThreadsWithOneStepEach) {
    Toy toy({{kAdd}, {kAdd}});
    EXPECT_TRUE(toy.check()) << toy.report();
    EXPECT_EQ(toy.states(), 4u); // neither, one, the other, both
    EXPECT_EQ(toy.ends(), 1u);
    EXPECT_EQ(toy.report(), "");
}

TEST(ModelChecker, CountsTheStatesOfAThreadAlone) {
    Toy toy({{kAddBadly, kAdd}});
    EXPECT_TRUE(toy.check()) << toy.report();
    EXPECT_EQ(toy.states(), 4u);
}

TEST(ModelChecker, FindsALostAdditionAndTellsTheWay) {
    Toy toy({{kAddBadly}, {kAddBadly}});
    EXPECT_FALSE(toy.check());
    // The way is one with as few changes of threads as can be.
    EXPECT_EQ(toy.report(), "an addition is lost\n"
                            "after 4 steps, at the end:\n"
                            "thread 1, add badly\n"
                            "    load counter: 0\n"
                            "thread 0, add badly\n"
                            "    load counter: 0\n"
                            "    store counter: 0 -> 1\n"
                            "thread 1, add badly\n"
                            "    store counter: 1 -> 1\n"
                            "cells that are not 0:\n"
                            "    counter: 1\n"
                            "2 additions\n");
}

TEST(ModelChecker, FindsItWhateverTheOthersDo) {
    Toy toy({{kAdd, kAddBadly}, {kAdd, kAdd, kAddBadly}, {kAdd}});
    toy.before(2, kAddBadly);
    EXPECT_FALSE(toy.check());
    expect_within(toy.report(), "an addition is lost\nafter ");
}

TEST(ModelChecker, ALockMakesItRight) {
    Toy toy({{kAddLocked}, {kAddLocked}});
    EXPECT_TRUE(toy.check()) << toy.report();
    EXPECT_GE(toy.states(), 20u);
    EXPECT_GE(toy.ends(), 1u);
}

TEST(ModelChecker, AChildFindsTheLockTakenForEver) {
    Toy toy({{kAddLocked}, {kAddLocked}});
    toy.with_forks({kAddLocked});
    EXPECT_FALSE(toy.check());
    EXPECT_GE(toy.children(), 1u);
    expect_within(toy.report(), "the lock stays taken in the child\nafter ");
    expect_within(toy.report(), "add locked\n    forks: the child goes on");
    expect_within(toy.report(), "lock: 1\n");
}

TEST(ModelChecker, AHandlerCanHelpTheChild) {
    Toy toy({{kAddLocked}, {kAddLocked}});
    toy.with_forks({kAddLocked});
    toy.unlocks_in_children();
    EXPECT_TRUE(toy.check()) << toy.report();
    EXPECT_GE(toy.children(), toy.states() / 10);
}

TEST(ModelChecker, AFaultBeforeTheSearchIsReported) {
    Toy toy({{kAdd}});
    toy.before(0, kMisuse);
    EXPECT_FALSE(toy.check());
    EXPECT_EQ(toy.report(), "misuse\nbefore the search\n0 additions\n");
}

TEST(ModelChecker, AFaultWithinAnOperationIsReportedThere) {
    Toy toy({{kAdd, kMisuse}, {kAdd}});
    EXPECT_FALSE(toy.check());
    expect_within(toy.report(), "misuse\nafter 2 steps:\n");
}

TEST(ModelChecker, AVariableThatTheModelDoesNotKnowIsAFault) {
    Toy toy({{kAddLocked}}, false);
    EXPECT_FALSE(toy.check());
    expect_within(toy.report(), "an atomic variable that the model does not know");
}

TEST(ModelChecker, TheSetOfSeenStatesKeepsThemAll) {
    model::Seen seen;
    for (uint64_t i = 0; i < 100000; i++) {
        ASSERT_TRUE(seen.insert(i * 0x9e3779b97f4a7c15u + (i == 0 ? 0 : 1)));
    }
    for (uint64_t i = 0; i < 100000; i++) {
        ASSERT_FALSE(seen.insert(i * 0x9e3779b97f4a7c15u + (i == 0 ? 0 : 1)));
    }
    EXPECT_EQ(seen.size(), 100000u);
}

} // namespace
