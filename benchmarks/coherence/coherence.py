#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Which cache lines move between cores, for each workload, allocator and number of cores.

Runs the simulator once a cell, with one socket and with two, and writes coherence.md (tables), coherence.json (all
counts) and one SVG a workload. A library is hakmem's instrumented one, or what trace_library makes of another allocator.
"""
import argparse
import concurrent.futures
import json
import os
import signal
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
WORKLOADS = ["larson", "xmalloc", "mixed", "middle", "large", "growth", "threads", "thrash"]
OWN = "hakmem_c23"
CALLER = os.environ.get("BUILD_WORKING_DIRECTORY", os.getcwd())
HELPERS = {"atomic_bitmap.h", "atomic.h", "alone.h", "base.h"}  # a place in them is named by its caller


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulator", default=HERE + "/simulator")
    parser.add_argument(
        "--library",
        action="append",
        default=[],
        metavar="NAME[:PREFIX]=FILE",
        help="another allocator; PREFIX stands before its malloc and free",
    )
    parser.add_argument("--own", default=HERE + "/../../libhakmem_c23_traced.so", help="hakmem's library")
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--cores", default="1,2,4,8,16,32,64,128,256")
    parser.add_argument("--scale", type=int, default=100, help="percent of the operations")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="simulations at a time")
    parser.add_argument("--sockets", default="1,2")
    parser.add_argument("--limit", type=int, default=300, help="CPU seconds for one simulation")
    parser.add_argument("--places", type=int, default=64, help="cores of the list of places")
    parser.add_argument("--out", default="coherence-results")
    options = parser.parse_args()
    options.libraries = [(OWN, "", os.path.join(CALLER, options.own))]
    for library in options.library:
        name, separator, path = library.partition("=")
        if not separator:
            parser.error(f"--library {library}: no file")
        name, _, prefix = name.partition(":")
        options.libraries.append((name, prefix, os.path.join(CALLER, path)))
    options.cores = [int(cores) for cores in options.cores.split(",")]
    options.sockets = [int(sockets) for sockets in options.sockets.split(",")]
    options.workloads = options.workloads.split(",")
    options.out = os.path.join(CALLER, options.out)
    return options


def simulate(options, library, workload, cores, sockets):
    _, prefix, path = library
    command = [options.simulator, "--library", path, "--prefix", prefix, "--workload", workload]
    command += ["--cores", str(cores), "--sockets", str(sockets), "--seed", str(options.seed)]
    command += ["--scale", str(options.scale)]
    # Two threads that wait for each other for ever are no rest for the machine.
    command = ["sh", "-c", 'ulimit -t "$0"; exec "$@"', str(options.limit)] + command
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"more than {options.limit} s"
    if done.returncode != 0:
        return done.stderr.strip()[-300:] or f"status {done.returncode}"
    return json.loads(done.stdout)


def names_of(path, places):
    """{place: "function file:line < caller file:line"} of a library's places in the code."""
    offsets = [place for place in places if place.startswith("+")]
    asked = [hex(int(place[1:], 16) - 1) for place in offsets]  # of the call, not behind it
    if not asked:
        return {}
    text = subprocess.run(
        ["addr2line", "-Cfia", "-e", path, *asked], capture_output=True, text=True, check=True
    ).stdout
    chains = []
    for line in text.splitlines():
        if line.startswith("0x"):
            chains.append([])
        else:
            chains[-1].append(line.split(" (discriminator")[0].rsplit("/", 1)[-1])
    names = {}
    for place, chain in zip(offsets, chains):
        steps = [f"{chain[i]} {chain[i + 1]}" for i in range(0, len(chain) - 1, 2)]
        while len(steps) > 1 and steps[0].split()[-1].split(":")[0] in HELPERS:
            steps.pop(0)
        names[place] = " < ".join(steps[:2])
    return names


def table(heading, rows):
    lines = ["| " + " | ".join(heading) + " |", "| --- |" + " ---: |" * (len(heading) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def per_operation(result, key, part="allocator"):
    return result[part][key] / result["operations"] if isinstance(result, dict) else None


def number(value, pattern="{:.3f}"):
    return "-" if value is None else pattern.format(value)


def speed(result):
    return result["operations_per_second"] / 1e6 if isinstance(result, dict) else None


def cells(options, results, workload, name, sockets=1):
    return [results.get((workload, name, cores, sockets)) for cores in options.cores]


def picture(options, results, workload, title):
    try:
        import matplotlib  # pylint: disable=import-outside-toplevel
    except ImportError:
        print("coherence: no picture without python3-matplotlib", file=sys.stderr)
        return ""
    matplotlib.use("svg")
    from matplotlib import pyplot  # pylint: disable=import-outside-toplevel

    # The same file each time that the counts are the same.
    matplotlib.rcParams["svg.hashsalt"] = workload
    figure, (moves, speeds) = pyplot.subplots(1, 2, figsize=(11, 4.2))
    for at, (name, _, _) in enumerate(options.libraries):
        colour = f"C{at}"
        width = 2.4 if name == OWN else 1.3
        ok = [(c, r) for c, r in zip(options.cores, cells(options, results, workload, name)) if isinstance(r, dict)]
        moves.plot(
            [c for c, _ in ok],
            [max(per_operation(r, "transfers"), 1e-4) for _, r in ok],
            color=colour,
            linewidth=width,
            marker=".",
            label=name,
        )
        for sockets, style in ((1, "-"), (2, "--")):
            ok = [
                (c, speed(r))
                for c, r in zip(options.cores, cells(options, results, workload, name, sockets))
                if isinstance(r, dict)
            ]
            speeds.plot([c for c, _ in ok], [s for _, s in ok], style, color=colour, linewidth=width)
    for axes in (moves, speeds):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(options.cores, [str(cores) for cores in options.cores])
        axes.set_xlabel("simulated cores")
        axes.grid(alpha=0.3)
    moves.set_title("transfers of lines an operation (0.0001: fewer)", fontsize=10)
    speeds.set_title("10⁶ operations a second, by the model; dashed: two sockets", fontsize=10)
    moves.legend(fontsize=8)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(f"{options.out}/{workload}.svg", metadata={"Date": None})
    pyplot.close(figure)
    return f"![{title}]({workload}.svg)\n\n"


def places(options, results, workload):
    """What moves most in hakmem, by place in the code and by line."""
    result = results.get((workload, OWN, options.places, 1))
    if not isinstance(result, dict):
        return ""
    sites = [site for site in result["sites"] if site["place"] != "program"]
    lines = result["lines"]
    wanted = {site["place"] for site in sites} | {by["place"] for line in lines for by in line["by"]}
    names = names_of(options.libraries[0][2], sorted(wanted))
    merged = {}
    for site in sites:
        name = names.get(site["place"], site["place"])
        row = merged.setdefault(name, {"transfers": 0, "invalidations": 0, "wait_ns": 0})
        for key in row:
            row[key] += site["counts"][key]
    top = sorted(merged.items(), key=lambda item: -item[1]["transfers"])[:8]
    n = result["operations"]
    text = table(
        ["place in hakmem", "transfers", "invalidations", "ns"],
        [
            [f"`{name}`"] + [number(row[key] / n) for key in ("transfers", "invalidations")] + [number(row["wait_ns"] / n, "{:.1f}")]
            for name, row in top
            if row["transfers"] > 0
        ],
    )
    rows = []
    for line in lines[:4]:
        by = ", ".join(f"`{names.get(b['place'], b['place']).split(' < ')[0]}`" for b in line["by"][:4])
        rows.append([by, line["line"], number(line["transfers"] / n)])
    return text + "\n" + table(["line of memory, by who moves it", "address", "transfers"], rows) + "\n"


def report(options, results):
    heading = ["allocator"] + [str(cores) for cores in options.cores]
    text = ["# coherence\n"]
    for workload in options.workloads:
        shown = [r for r in cells(options, results, workload, OWN) if isinstance(r, dict)]
        title = shown[0]["title"] if shown else workload
        text.append(f"## {workload}\n\n{title}.\n\n" + picture(options, results, workload, title))
        rows = {"moves": [], "speed": [], "two": [], "rest": []}
        for name, _, _ in options.libraries:
            one = cells(options, results, workload, name)
            moves = [per_operation(r, "transfers") for r in one]
            rows["moves"].append([name] + [number(m) for m in moves])
            rows["speed"].append([name] + [number(speed(r), "{:.1f}") for r in one])
            rows["two"].append([name] + [number(speed(r), "{:.1f}") for r in cells(options, results, workload, name, 2)])
            rows["rest"].append(
                [name] + [number(per_operation(r, "failed")) + " / " + number(per_operation(r, "calls")) for r in one]
            )
        text.append("Transfers for an operation, by simulated cores:\n\n" + table(heading, rows["moves"]))
        text.append("10^6 operations a second by the model, one socket:\n\n" + table(heading, rows["speed"]))
        if 2 in options.sockets:
            text.append("The same with two sockets:\n\n" + table(heading, rows["two"]))
        text.append("Failed compare-and-swaps / calls of the kernel, for an operation:\n\n" + table(heading, rows["rest"]))
        if options.places in options.cores:
            text.append(f"What moves with {options.places} cores, for an operation:\n\n" + places(options, results, workload))
    with open(options.out + "/coherence.md", "w", encoding="utf-8") as file:
        file.write("\n".join(text))
    kept = []
    for (workload, name, cores, sockets), result in sorted(results.items()):
        if isinstance(result, dict):
            result = {key: value for key, value in result.items() if key not in ("sites", "lines", "title")}
        else:
            result = {"workload": workload, "cores": cores, "sockets": sockets, "error": result}
        kept.append(json.dumps({"allocator_name": name, **result}))
    with open(options.out + "/coherence.json", "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(kept) + "\n]\n")


def main():
    options = arguments()
    os.makedirs(options.out, exist_ok=True)
    results, failed = {}, 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        runs = {
            (workload, library[0], cores, sockets): pool.submit(simulate, options, library, workload, cores, sockets)
            for workload in options.workloads
            for library in options.libraries
            for cores in options.cores
            for sockets in options.sockets
        }
        for key, run in runs.items():
            results[key] = run.result()
            if not isinstance(results[key], dict):
                failed += 1
                print("coherence:", *key, results[key], file=sys.stderr)
    report(options, results)
    print(f"{options.out}/coherence.md", file=sys.stderr)
    # Another allocator that does not run is said, and leaves gaps; hakmem has to run.
    return any(key[1] == OWN and not isinstance(result, dict) for key, result in results.items())


if __name__ == "__main__":
    sys.exit(main())
