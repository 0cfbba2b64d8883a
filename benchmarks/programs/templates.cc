// To be compiled, not run: templates, for the compiler's sake.
#include <algorithm>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <regex>
#include <string>
#include <tuple>
#include <unordered_map>
#include <variant>
#include <vector>

template <int N> struct Chain {
    std::variant<std::string, std::vector<std::tuple<int, double, std::string>>> value;
    std::map<std::string, std::unordered_map<int, std::optional<std::string>>> table;
    Chain<N - 1> rest;
    template <typename F> void each(F f) {
        std::visit(f, value);
        std::sort(table.begin()->second.begin()->second->begin(),
                  table.begin()->second.begin()->second->end());
        rest.each(f);
    }
};
template <> struct Chain<0> {
    template <typename F> void each(F) {}
};

int main(int argc, char **argv) {
    Chain<12> chain;
    std::function<int(int)> next = [argc](int i) { return i + argc; };
    chain.each([&](auto &value) { std::cout << value.size() + static_cast<size_t>(next(1)); });
    const std::regex pattern("([a-z]+)([0-9]*)");
    return std::regex_match(argv[0], pattern) ? 0 : 1;
}
