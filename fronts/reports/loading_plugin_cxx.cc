// SPDX-License-Identifier: Apache-2.0
// A library in C++ that is opened with RTLD_DEEPBIND by a program in C.
#include <dlfcn.h>

#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

// By a bare name, which is found in this library's own DT_RUNPATH: $ORIGIN. Not a tail call, which
// would be the program's.
extern "C" void *loading_by_name(int flags) {
    void *volatile opened = dlopen("libloading_plugin.so", flags);
    return opened;
}

extern "C" int loading_plugin_cxx() {
    std::map<std::string, std::vector<int>> map;
    for (int i = 0; i < 1000; i++) {
        std::ostringstream text;
        text << "key " << i % 100 << std::string(i, 'x');
        map[text.str()].push_back(i);
    }
    struct alignas(128) Wide {
        char bytes[128];
    };
    auto wide = std::make_unique<Wide[]>(10);
    try {
        throw std::string("thrown");
    } catch (const std::string &text) {
        return map.size() == 1000 && text == "thrown" &&
                       reinterpret_cast<size_t>(wide.get()) % 128 == 0
                   ? 0
                   : 1;
    }
}
