// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/harness/allocators.h"

#include "benchmarks/harness/flags.h"
#include "tools/cpp/runfiles/runfiles.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <system_error>

namespace bench {
namespace {

namespace fs = std::filesystem;

constexpr char kWorkspace[] = "hakmem/";

// Debian's packages libmimalloc2.0, libjemalloc2 and libtcmalloc-minimal4.
struct Rival {
    const char *name;
    std::vector<const char *> files;
};
const std::vector<Rival> &rivals() {
    static const std::vector<Rival> list = {
        {"mimalloc", {"libmimalloc.so.2.0", "libmimalloc.so.2", "libmimalloc.so.3"}},
        {"jemalloc", {"libjemalloc.so.2"}},
        {"tcmalloc", {"libtcmalloc_minimal.so.4"}},
    };
    return list;
}

std::string rival_file(const Rival &rival) {
    for (const char *directory : {"/usr/lib/x86_64-linux-gnu/", "/usr/lib64/", "/usr/lib/"}) {
        for (const char *file : rival.files) {
            std::error_code ignored;
            if (fs::exists(std::string(directory) + file, ignored)) {
                return std::string(directory) + file;
            }
        }
    }
    return "";
}

// libNAME.so.2 -> NAME
std::string library_name(const std::string &path) {
    std::string name = fs::path(path).filename();
    if (name.rfind("lib", 0) == 0) {
        name = name.substr(3);
    }
    return name.substr(0, name.find(".so"));
}

} // namespace

std::string built_file(const std::string &path) {
    using bazel::tools::cpp::runfiles::Runfiles;
    // The driver's real path, as argv[0] may be a bare name found in PATH.
    static const std::unique_ptr<Runfiles> runfiles = [] {
        std::error_code ignored;
        const std::string self = fs::read_symlink("/proc/self/exe", ignored);
        std::string error;
        std::unique_ptr<Runfiles> of_self(Runfiles::Create(self, &error));
        // A driver that another Bazel program carries in its runfiles has no runfiles of its own.
        return of_self != nullptr ? std::move(of_self)
                                  : std::unique_ptr<Runfiles>(Runfiles::CreateForTest(&error));
    }();
    if (runfiles == nullptr) {
        return "";
    }
    std::error_code error;
    const std::string file = fs::canonical(runfiles->Rlocation(kWorkspace + path), error);
    return error ? "" : file;
}

std::vector<std::string> known_flavours() {
    std::vector<std::string> names;
    const std::string one = built_file("libhakmem_c23.so");
    if (!one.empty()) {
        std::error_code ignored;
        for (const auto &entry : fs::directory_iterator(fs::path(one).parent_path(), ignored)) {
            const std::string file = entry.path().filename();
            if (file.rfind("lib", 0) == 0 && entry.path().extension() == ".so" &&
                !built_file(file).empty()) {
                names.push_back(library_name(file));
            }
        }
    }
    std::sort(names.begin(), names.end());
    return names;
}

std::vector<std::string> known_rivals() {
    std::vector<std::string> names;
    for (const Rival &rival : rivals()) {
        if (!rival_file(rival).empty()) {
            names.push_back(rival.name);
        }
    }
    return names;
}

std::string find_allocator(const std::string &text, Allocator *out) {
    Allocator found;
    found.name = text;
    const std::string base = text.substr(0, text.find('+'));
    for (size_t at = base.size(); at < text.size();) {
        const size_t end = std::min(text.find('+', at + 1), text.size());
        const std::string variable = text.substr(at + 1, end - at - 1);
        if (variable.find('=') == std::string::npos || variable[0] == '=') {
            return "\"" + variable + "\" in \"" + text + "\" is not NAME=VALUE";
        }
        found.environment.push_back(variable);
        at = end;
    }
    if (base == "system") {
        *out = found;
        return "";
    }
    if (base.find('/') != std::string::npos) {
        std::error_code error;
        found.preload = fs::canonical(base, error);
        if (error) {
            return base + ": " + error.message();
        }
        // The loader splits LD_PRELOAD at both.
        if (found.preload.find_first_of(" :") != std::string::npos) {
            return base + ": a path with a space or a colon cannot be preloaded";
        }
        found.name = library_name(base) + text.substr(base.size());
        *out = found;
        return "";
    }
    for (const Rival &rival : rivals()) {
        if (base == rival.name) {
            found.preload = rival_file(rival);
            if (found.preload.empty()) {
                return base + " is not installed here";
            }
            *out = found;
            return "";
        }
    }
    found.preload = built_file("lib" + base + ".so");
    if (found.preload.empty() || base.empty()) {
        std::string known = "system";
        for (const auto &names : {known_flavours(), known_rivals()}) {
            for (const std::string &name : names) {
                known += ", " + name;
            }
        }
        return "no allocator \"" + base + "\"; there are " + known + ", or /path/lib.so";
    }
    found.flavour = base;
    *out = found;
    return "";
}

std::string find_allocators(const std::string &list, std::vector<Allocator> *out) {
    std::vector<std::string> texts;
    for (const std::string &text : split_list(list)) {
        if (text == "rivals") {
            const std::vector<std::string> names = known_rivals();
            texts.insert(texts.end(), names.begin(), names.end());
        } else {
            texts.push_back(text);
        }
    }
    if (texts.empty()) {
        return "no allocator named";
    }
    out->clear();
    for (const std::string &text : texts) {
        Allocator allocator;
        const std::string why = find_allocator(text, &allocator);
        if (!why.empty()) {
            return why;
        }
        for (const Allocator &other : *out) {
            if (other.name == allocator.name) {
                return "two allocators are called " + allocator.name;
            }
        }
        out->push_back(allocator);
    }
    return "";
}

size_t place_of(const std::vector<Allocator> &allocators, const std::string &text) {
    Allocator named;
    if (find_allocator(text, &named).empty()) {
        for (size_t a = 0; a < allocators.size(); a++) {
            if (allocators[a].name == named.name && allocators[a].preload == named.preload) {
                return a;
            }
        }
    }
    const auto called = [&](const Allocator &allocator) { return allocator.name == text; };
    return static_cast<size_t>(std::find_if(allocators.begin(), allocators.end(), called) -
                               allocators.begin());
}

std::vector<Allocator> chosen_allocators(const Flags &flags, const std::string &list) {
    std::vector<Allocator> allocators;
    const std::string why = find_allocators(list, &allocators);
    if (!why.empty()) {
        flags.fail(why);
    }
    return allocators;
}

std::string allocators_text(const std::vector<Allocator> &allocators) {
    std::string text;
    for (const Allocator &allocator : allocators) {
        text += "- " + allocator.name + ": " +
                (allocator.preload.empty() ? "the program's own malloc" : allocator.preload) + "\n";
    }
    return text;
}

} // namespace bench
