# SPDX-License-Identifier: Apache-2.0
"""hakmem profile: what a heap profile says."""

import collections
import html
import math

from . import Failure, pprof, show

HELP = "print the functions that allocated the memory of a heap profile; compare two; draw a flame graph"


def add_arguments(parser):
    parser.add_argument("file", metavar="FILE", nargs="+", help="pprof's format or folded stacks; several are added up")
    parser.add_argument("--diff", metavar="BASE", help="less what is in this profile")
    parser.add_argument("--top", metavar="N", type=int, default=20, help="so many functions (default 20)")
    parser.add_argument("--flame", metavar="FILE", help="draw a flame graph, an .svg file")
    parser.add_argument("--folded", action="store_true", help="write folded stacks instead")
    parser.add_argument("--value", metavar="NAME", help="which of the profile's values (default inuse_space, or the last)")


def merge(paths, value):
    """(name of the value, {stack: sum}, the longest period)"""
    sums, name, period = collections.Counter(), None, 0
    for path in paths:
        profile = pprof.load(path)
        if value:
            if value not in profile.types:
                raise Failure(f"{path}: no value {value}; it has {', '.join(profile.types)}", 2)
            chosen = value
        else:
            chosen = "inuse_space" if "inuse_space" in profile.types else profile.types[-1]
        name = name or chosen
        at = profile.types.index(chosen)
        period = max(period, profile.period)
        for stack, values in profile.samples:
            sums[stack] += values[at]
    return name, sums, period


def by_function(sums):
    """{function: [flat, cumulative]}"""
    found = collections.defaultdict(lambda: [0, 0])
    for stack, value in sums.items():
        if stack:
            found[stack[-1]][0] += value
        for name in set(stack):
            found[name][1] += value
    return found


def run(args):
    name, sums, period = merge(args.file, args.value)
    if args.diff:
        _, base, _ = merge([args.diff], args.value)
        sums.subtract(base)
    sums = {stack: value for stack, value in sums.items() if value}
    if args.folded:
        for stack, value in sorted(sums.items()):
            print(f"{';'.join(stack)} {value}")
        return 0
    if args.flame:
        if not args.flame.endswith(".svg"):
            raise Failure(f"{args.flame}: its name must end in .svg", 2)
        try:
            with open(args.flame, "w") as file:
                file.write(flame(sums, name))
        except OSError as error:
            raise Failure(f"{args.flame}: {error.strerror}") from None
    print("\n".join(top(name, sums, args.top, 0 if args.diff else period)))
    return 0


def _amount(name, value):
    text = show.size(abs(value)) if name.endswith(("space", "bytes")) else str(abs(value))
    return "-" + text if value < 0 else text


def _doubt(name, value, period):
    """The standard deviation of a sum of sampled bytes, at most (that is, in small blocks), as text; "" if it is exact."""
    if period <= 1 or value <= 0 or not name.endswith("_space"):
        return ""
    return f"± {min(100, 100 * math.sqrt(period / value)):.0f} %"


def top(name, sums, most, period):
    total = sum(sums.values())
    doubt = _doubt(name, total, period)
    sampled = f", sampled every {show.size(period)}: {doubt} at most" if doubt else ""
    yield f"{name}: {_amount(name, total)} in {len(sums)} stack{'' if len(sums) == 1 else 's'}{sampled}"
    whole = sum(abs(v) for v in sums.values()) or 1
    rows = []
    for function, (flat, cumulative) in sorted(by_function(sums).items(), key=lambda item: (-abs(item[1][0]), -abs(item[1][1]), item[0]))[:most]:
        rows.append((_amount(name, flat), f"{100 * flat / whole:.1f} %", _doubt(name, flat, period), _amount(name, cumulative), f"{100 * cumulative / whole:.1f} %", function))
    yield from show.table(rows, ["flat", "", "", "with callees", "", "function"], left=(5,))


class _Node:
    __slots__ = ("value", "grown", "below")

    def __init__(self):
        self.value, self.grown, self.below = 0, 0, {}


# The least width of a box, a thousandth of the picture's: what is thinner only makes it higher, by stacks of up to 128
# calls.
_LEAST = 1.2


def _boxes(root, wide):
    """(frame, node, x, width, depth) of each box that can be seen."""
    stack = [("all", root, 0.0, 0)]
    while stack:
        frame, node, x, depth = stack.pop()
        width = wide * node.value / (root.value or 1)
        if depth > 0 and width < _LEAST:
            continue
        yield frame, node, x, width, depth
        at = x
        for below, child in sorted(node.below.items()):
            stack.append((below, child, at, depth + 1))
            at += wide * child.value / (root.value or 1)


def flame(sums, name):
    """A flame graph. The roots are below; in a difference red is more than before, and blue is less."""
    root = _Node()
    differs = any(value < 0 for value in sums.values())
    for stack, value in sums.items():
        node = root
        node.value += abs(value)
        node.grown += value
        for frame in stack:
            node = node.below.setdefault(frame, _Node())
            node.value += abs(value)
            node.grown += value
    wide, tall = 1200, 17
    boxes = list(_boxes(root, wide))
    high = (1 + max(depth for *_, depth in boxes)) * tall + 40
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{high}" font-family="monospace" font-size="11">',
        f'<rect width="{wide}" height="{high}" fill="#fff"/><text x="6" y="18" font-family="sans-serif" font-size="14">{html.escape(name)}: {_amount(name, root.grown)}</text>',
    ]

    def colour(frame, node):
        if differs:
            part = max(-1.0, min(1.0, node.grown / (node.value or 1)))
            return f"rgb(255,{round(200 - 120 * part)},{round(200 - 120 * part)})" if part > 0 else f"rgb({round(200 + 120 * part)},{round(200 + 120 * part)},255)"
        mixed = sum(frame.encode()) * 2654435761 & 0xFFFFFFFF
        return f"rgb({205 + (mixed >> 8) % 50},{90 + (mixed >> 16) % 120},{(mixed >> 24) % 60})"

    for frame, node, x, width, depth in boxes:
        y = high - 10 - (depth + 1) * tall
        share = 100 * node.value / (root.value or 1)
        out.append(f'<g><title>{html.escape(frame)}: {_amount(name, node.grown)}, {share:.1f} %</title><rect x="{x:.1f}" y="{y}" width="{max(0.3, width - 0.5):.1f}" height="{tall - 1}" fill="{colour(frame, node)}" rx="1"/>')
        letters = int(width / 6.8)
        if letters >= 3:
            text = frame if len(frame) <= letters else frame[: letters - 1] + "…"
            out.append(f'<text x="{x + 3:.1f}" y="{y + 12}">{html.escape(text)}</text>')
        out.append("</g>")
    return "\n".join(out + ["</svg>", ""])
