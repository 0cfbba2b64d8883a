// SPDX-License-Identifier: Apache-2.0
// The probes of the shared object: its notes, and the code at the addresses in the notes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <elf.h>
#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "fronts/libc/shell.h"

namespace {

using testing::HasSubstr;

struct Probe {
    uint64_t at;
    std::string arguments;
};

std::string Bytes(const std::string &path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

template <typename T> T At(const std::string &bytes, size_t at) {
    T value{};
    EXPECT_LE(at + sizeof value, bytes.size());
    bytes.copy(reinterpret_cast<char *>(&value), sizeof value, at);
    return value;
}

Elf64_Shdr Section(const std::string &image, const std::string &name) {
    auto header = At<Elf64_Ehdr>(image, 0);
    auto section = [&](unsigned i) {
        return At<Elf64_Shdr>(image, header.e_shoff + i * sizeof(Elf64_Shdr));
    };
    Elf64_Shdr names = section(header.e_shstrndx);
    for (unsigned i = 0; i < header.e_shnum; i++) {
        if (name == image.c_str() + names.sh_offset + section(i).sh_name) {
            return section(i);
        }
    }
    ADD_FAILURE() << "no section " << name;
    return {};
}

// Of the provider "hakmem", by name. The addresses are as the notes have them, corrected by where
// .stapsdt.base has come to lie, as tracers do it.
std::multimap<std::string, Probe> Probes(const std::string &image) {
    std::multimap<std::string, Probe> probes;
    Elf64_Shdr notes = Section(image, ".note.stapsdt");
    uint64_t base = Section(image, ".stapsdt.base").sh_addr;
    size_t at = notes.sh_offset, end = at + notes.sh_size;
    while (at < end) {
        auto note = At<Elf64_Nhdr>(image, at);
        at += sizeof note;
        EXPECT_STREQ(image.c_str() + at, "stapsdt");
        EXPECT_EQ(note.n_type, 3u);
        at += (note.n_namesz + 3u) & ~3u;
        std::string text = image.substr(at + 24, note.n_descsz - 24);
        std::string provider = text.c_str();
        std::string name = text.c_str() + provider.size() + 1;
        std::string arguments = text.c_str() + provider.size() + name.size() + 2;
        EXPECT_EQ(provider, "hakmem");
        EXPECT_EQ(At<uint64_t>(image, at + 16), 0u); // no semaphore
        probes.insert(
            {name, {At<uint64_t>(image, at) - At<uint64_t>(image, at + 8) + base, arguments}});
        at += (note.n_descsz + 3u) & ~3u;
    }
    return probes;
}

TEST(Probes, EachIsAnInstructionThatDoesNothingWithItsArgumentsInPlaces) {
    const std::map<std::string, size_t> arguments = {
        {"sample", 5},    {"sample_free", 5}, {"slab_claim", 2}, {"slab_release", 2}, {"purge", 1},
        {"heap_make", 2}, {"heap_adopt", 2},  {"heap_give", 2},  {"misuse", 3},
    };
    for (std::string flavour : {"hakmem_c23", "hakmem_c23_header", "hakmem_classic",
                                "hakmem_c23_debug", "hakmem_hardened"}) {
        std::string image = Bytes("lib" + flavour + ".so");
        Elf64_Shdr text = Section(image, ".text");
        std::set<std::string> names;
        for (const auto &[name, probe] : Probes(image)) {
            names.insert(name);
            ASSERT_EQ(arguments.count(name), 1u) << name;
            static const std::regex one(R"(8@(%r[a-z0-9]+|\$-?[0-9]+))");
            auto begin = std::sregex_iterator(probe.arguments.begin(), probe.arguments.end(), one);
            EXPECT_EQ(static_cast<size_t>(std::distance(begin, std::sregex_iterator())),
                      arguments.at(name))
                << name << " " << probe.arguments;
            ASSERT_LT(probe.at - text.sh_addr, text.sh_size);
            EXPECT_EQ(static_cast<unsigned char>(image[probe.at - text.sh_addr + text.sh_offset]),
                      0x90)
                << name;
        }
        for (const auto &[name, count] : arguments) {
            EXPECT_EQ(names.count(name), 1u) << name;
        }
    }
}

TEST(Probes, ReadelfListsThem) {
    std::string text = shell::Run("readelf -n libhakmem_c23.so 2>&1").text;
    EXPECT_THAT(text, HasSubstr("Provider: hakmem"));
    EXPECT_THAT(text, HasSubstr("Name: sample_free"));
}

TEST(Probes, NoneStandsInMallocOrFree) {
    std::string image = Bytes("libhakmem_c23.so");
    for (std::string function : {"malloc", "free", "slow_alloc"}) {
        std::string line =
            shell::Run("nm -S libhakmem_c23.so | grep ' [Tt] " + function + "$'").text;
        uint64_t start = 0, size = 0;
        ASSERT_EQ(sscanf(line.c_str(), "%lx %lx", &start, &size), 2) << function;
        for (const auto &[name, probe] : Probes(image)) {
            EXPECT_GE(probe.at - start, size) << name << " in " << function;
        }
    }
}

// Each script asks for probes that there are.
TEST(Probes, TheScriptsFitThem) {
    auto probes = Probes(Bytes("libhakmem_c23.so"));
    int asked = 0;
    for (std::string script : {"samples", "slabs", "heaps"}) {
        std::string text = Bytes("tools/probes/" + script + ".bt");
        // Not in quotes: bpftrace takes a quoted $1 for the name of a file.
        static const std::regex usdt(R"((?:^|\n)usdt:\$1:hakmem:(\w+))");
        for (std::sregex_iterator at(text.begin(), text.end(), usdt), end; at != end; ++at) {
            EXPECT_EQ(probes.count((*at)[1].str()) > 0, true) << (*at)[1];
            asked++;
        }
    }
    EXPECT_EQ(asked, 9);
}

} // namespace
