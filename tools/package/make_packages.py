#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""make_packages.py FOLDER FILE...: the Debian packages of the files, in the folder."""
import os
import sys

sys.dont_write_bytecode = True
import packages  # noqa: E402


def main():
    folder, *files = sys.argv[1:]
    for name, content in packages.debian_packages(packages.Sources(files)).items():
        with open(os.path.join(folder, name), "wb") as out:
            out.write(content)


if __name__ == "__main__":
    main()
