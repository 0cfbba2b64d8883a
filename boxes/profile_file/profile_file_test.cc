// SPDX-License-Identifier: Apache-2.0
#include "boxes/profile_file/profile_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <string>
#include <unistd.h>

#include "boxes/heap_profile/heap_profile.h"
#include "boxes/sampler/sampler.h"

namespace {

std::string Name(const std::string &pattern, bool child = false) {
    char path[PROFILE_PATH_MOST];
    return profile_file_name(pattern.c_str(), 7, child, path) ? path : "too long";
}

std::string Process() {
    return std::to_string(getpid());
}

TEST(ProfileFile, NamesArePatterns) {
    EXPECT_EQ(Name("/tmp/x"), "/tmp/x");
    EXPECT_EQ(Name("a%pb"), "a" + Process() + "b");
    EXPECT_EQ(Name("%n.%%"), "7.%");
    EXPECT_EQ(Name("%q%"), "%q%");
    EXPECT_THAT(Name("%t"), testing::MatchesRegex("[0-9]+"));
    EXPECT_EQ(Name(std::string(PROFILE_PATH_MOST, 'x')), "too long");
    EXPECT_EQ(Name(std::string(PROFILE_PATH_MOST - 8, 'x') + "%t"), "too long");
}

TEST(ProfileFile, AChildsNameHasItsNumber) {
    EXPECT_EQ(Name("/tmp/a.b/x", true), "/tmp/a.b/x." + Process());
    EXPECT_EQ(Name("x.pb.gz", true), "x." + Process() + ".pb.gz");
    EXPECT_EQ(Name(".x", true), ".x." + Process());
    EXPECT_EQ(Name("x.%p", true), "x." + Process());
}

std::string Unpacked(const std::string &path) {
    FILE *in = popen(("gzip -dc '" + path + "'").c_str(), "r");
    std::string text;
    char part[65536];
    size_t size;
    while ((size = fread(part, 1, sizeof part, in)) > 0) {
        text.append(part, size);
    }
    EXPECT_EQ(pclose(in), 0);
    return text;
}

template <int depth> __attribute__((noinline)) void Note(uintptr_t ptr) {
    if constexpr (depth == 0) {
        heap_profile_note(reinterpret_cast<const void *>(ptr), 100);
    } else {
        Note<depth - 1>(ptr);
    }
    __asm__ volatile("");
}

// Longer than a block of gzip's, and than the writer's first room for addresses.
TEST(ProfileFile, GzipUnpacksIt) {
    sampler_start(1);
    std::string path = testing::TempDir() + "/x.pb.gz";
    EXPECT_TRUE(profile_file_write(path.c_str()));
    size_t empty = Unpacked(path).size();
    for (uintptr_t i = 1; i < 2000; i++) {
        Note<20>(i * 16);
        Note<60>(i * 16 + 1000000);
    }
    EXPECT_TRUE(profile_file_write(path.c_str()));
    EXPECT_GT(Unpacked(path).size(), empty + 1000);
    EXPECT_FALSE(std::filesystem::exists(path + ".part"));
    EXPECT_FALSE(profile_file_write("/nowhere/x"));
    EXPECT_TRUE(profile_file_write("/dev/null"));
}

} // namespace
