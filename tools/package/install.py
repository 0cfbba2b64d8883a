#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""install --prefix DIR [--destdir DIR] [--libdir DIR] [--remove]: installs hakmem below a prefix.

Libraries, header, pkg-config and CMake files, manual pages and the tool. What is below DESTDIR, an environment
variable or the option, is as if it were below /. --libdir is lib below the prefix. --remove takes the same files away.
The files to install come first, as `./bazelw run //tools/package:install` gives them.
"""
import argparse
import os
import sys

sys.dont_write_bytecode = True
import packages  # noqa: E402


def place(root, entry):
    path = os.path.join(root, entry.path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    # Not over what a running process has mapped: a new file in place of the old one.
    fresh = path + ".new"
    if os.path.lexists(fresh):
        os.remove(fresh)
    if entry.link:
        os.symlink(entry.link, fresh)
    else:
        with open(fresh, "wb") as file:
            file.write(entry.content)
        os.chmod(fresh, entry.mode)
    os.replace(fresh, path)
    return path


def remove(root, entry):
    path = os.path.join(root, entry.path)
    if not os.path.lexists(path):
        return None
    os.remove(path)
    # Folders of hakmem's own go with their last file.
    folder = os.path.dirname(path)
    while os.path.basename(folder) in ("hakmem", "compat", "hakmemlib") and not os.listdir(folder):
        os.rmdir(folder)
        folder = os.path.dirname(folder)
    return path


def main():
    parser = argparse.ArgumentParser(prog="install", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--destdir", default=os.environ.get("DESTDIR", ""))
    parser.add_argument("--libdir", default="lib")
    parser.add_argument("--remove", action="store_true")
    parser.add_argument("files", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()

    # `bazel run` changes the folder first.
    caller = os.environ.get("BUILD_WORKING_DIRECTORY", os.getcwd())
    prefix = os.path.normpath(os.path.join(caller, options.prefix))
    lib = options.libdir.strip("/") if not options.libdir.startswith(prefix + "/") else options.libdir[len(prefix) + 1 :]
    root = os.path.join(caller, options.destdir, "." + prefix) if options.destdir else prefix
    root = os.path.normpath(root)

    entries = packages.tree(packages.Sources(options.files), prefix, lib)
    act = remove if options.remove else place
    try:
        done = [path for path in (act(root, entry) for entry in entries) if path]
    except OSError as error:
        sys.exit(f"install: {error.strerror}: {error.filename}")
    print(f"{len(done)} files {'removed from' if options.remove else 'installed below'} {root}")
    system = {"/usr", "/usr/local"}
    if not options.remove and not options.destdir and prefix in system and os.geteuid() == 0:
        os.system("ldconfig")


if __name__ == "__main__":
    main()
