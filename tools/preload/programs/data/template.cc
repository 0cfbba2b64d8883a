// A template-heavy program: expression trees, compile-time tables, variants, containers, regex.
#include <algorithm>
#include <array>
#include <deque>
#include <functional>
#include <iostream>
#include <list>
#include <map>
#include <memory>
#include <numeric>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

template <unsigned N> struct Fibonacci {
    static constexpr unsigned long long value = Fibonacci<N - 1>::value + Fibonacci<N - 2>::value;
};
template <> struct Fibonacci<0> { static constexpr unsigned long long value = 0; };
template <> struct Fibonacci<1> { static constexpr unsigned long long value = 1; };

template <typename F, std::size_t... I> constexpr auto Table(F f, std::index_sequence<I...>) {
    return std::array{f(I)...};
}
constexpr auto kSquares =
    Table([](std::size_t i) { return i * i % 1009; }, std::make_index_sequence<250>{});

struct Number {
    double value;
};
template <typename L, typename R, char Op> struct Node {
    L left;
    R right;
};
template <typename T> struct IsExpression : std::false_type {};
template <> struct IsExpression<Number> : std::true_type {};
template <typename L, typename R, char Op> struct IsExpression<Node<L, R, Op>> : std::true_type {};
#define OPERATOR(op, c)                                                                      \
    template <typename L, typename R,                                                        \
              typename = std::enable_if_t<IsExpression<L>::value && IsExpression<R>::value>> \
    constexpr Node<L, R, c> operator op(L l, R r) {                                          \
        return {l, r};                                                                       \
    }
OPERATOR(+, '+')
OPERATOR(*, '*')
OPERATOR(-, '-')
constexpr double Evaluate(Number n) {
    return n.value;
}
template <typename L, typename R, char Op> constexpr double Evaluate(Node<L, R, Op> n) {
    const double l = Evaluate(n.left), r = Evaluate(n.right);
    return Op == '+' ? l + r : Op == '*' ? l * r : l - r;
}
template <std::size_t N> constexpr auto Polynomial(Number x) {
    if constexpr (N == 0) {
        return Number{1};
    } else {
        return Polynomial<N - 1>(x) * x + Number{double(N)} - Polynomial<N / 2>(x);
    }
}

template <typename... T> struct Overload : T... { using T::operator()...; };
template <typename... T> Overload(T...) -> Overload<T...>;
struct Value;
using List = std::vector<Value>;
using Map = std::map<std::string, Value>;
struct Value {
    std::variant<std::nullptr_t, bool, long, double, std::string, List, Map> v;
};
std::string Print(const Value &value) {
    return std::visit(Overload{[](std::nullptr_t) { return std::string("null"); },
                               [](bool b) { return std::string(b ? "true" : "false"); },
                               [](long n) { return std::to_string(n); },
                               [](double d) {
                                   std::ostringstream s;
                                   s << d;
                                   return s.str();
                               },
                               [](const std::string &s) { return '"' + s + '"'; },
                               [](const List &list) {
                                   std::string s = "[";
                                   for (const auto &item : list)
                                       s += Print(item) + ",";
                                   return s + "]";
                               },
                               [](const Map &map) {
                                   std::string s = "{";
                                   for (const auto &[key, item] : map)
                                       s += key + ":" + Print(item) + ",";
                                   return s + "}";
                               }},
                      value.v);
}

template <template <typename...> class Container> unsigned long Fill(unsigned n) {
    Container<std::shared_ptr<std::string>> all;
    for (unsigned i = 0; i < n; i++)
        all.push_back(std::make_shared<std::string>(i % 97, 'x'));
    return std::accumulate(all.begin(), all.end(), 0ul,
                           [](unsigned long s, const auto &p) { return s + p->size(); });
}

int main() {
    std::cout << Fibonacci<90>::value << ' '
              << std::accumulate(kSquares.begin(), kSquares.end(), 0ul) << '\n';
    std::cout << Evaluate(Polynomial<9>(Number{1.25})) << '\n';
    Value tree{Map{}};
    for (long i = 0; i < 2000; i++) {
        std::get<Map>(tree.v)["key" + std::to_string(i * 7919 % 2003)] =
            Value{List{Value{i}, Value{i / 3.0}, Value{i % 2 == 0}, Value{std::string(i % 50, 'y')},
                       Value{nullptr}}};
    }
    const std::string text = Print(tree);
    std::cout << text.size() << ' ' << std::hash<std::string>{}(text) << '\n';
    std::cout << Fill<std::vector>(50000) << ' ' << Fill<std::deque>(50000) << ' '
              << Fill<std::list>(50000) << '\n';
    const std::regex pattern("key(\\d+):\\[(\\d+),");
    long sum = 0;
    for (std::sregex_iterator it(text.begin(), text.end(), pattern), end; it != end; ++it) {
        sum += std::stol((*it)[1]) * 3 + std::stol((*it)[2]);
    }
    std::cout << sum << '\n';
    std::vector<std::thread> threads;
    std::array<std::size_t, 4> sizes{};
    for (std::size_t t = 0; t < sizes.size(); t++) {
        threads.emplace_back([t, &sizes] {
            std::unordered_map<std::string, std::set<int>> index;
            for (int i = 0; i < 40000; i++)
                index[std::to_string(i % (1000 + t))].insert(i);
            for (const auto &[key, set] : index)
                sizes[t] += key.size() * set.size();
        });
    }
    for (auto &thread : threads)
        thread.join();
    for (auto size : sizes)
        std::cout << size << '\n';
    try {
        throw std::make_tuple(std::string(1000, 'e'), std::vector<int>(1000, 7));
    } catch (const std::tuple<std::string, std::vector<int>> &e) {
        std::cout << std::get<0>(e).size() + std::get<1>(e).size() << '\n';
    }
}
