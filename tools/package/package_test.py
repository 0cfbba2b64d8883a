#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Installs below a prefix, compiles against that in three ways, runs and removes; the same with what the Debian packages
hold; and makes the packages twice, which have to be equal. The arguments are the files to install."""
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.join(os.getcwd(), "tools/package")
NAMES = sys.argv[1:]
sys.dont_write_bytecode = True
sys.path.insert(0, HERE)
import packages  # noqa: E402

# strdup() alone: a linker that is not told to keeps no library for what libc calls.
PROGRAM = r"""
#include <hakmem/hakmem.h>
#include <stdio.h>
#include <string.h>
#ifdef __cplusplus
#define STATS hak_stats
#else
#define STATS struct hak_stats
#endif
int main(void) {
    STATS before, after;
    hak_stats(&before);
    char *volatile copy = strdup("a string that is long enough to be counted");
    hak_stats(&after);
    int served = after.tiny_live > before.tiny_live && strlen(copy) > 0;
    printf("%s %s %s\n", hak_flavour(), hak_version(), served ? "served" : "NOT served");
    return strcmp(HAKMEM_VERSION, hak_version()) != 0;
}
"""

CMAKE = """
cmake_minimum_required(VERSION 3.13)
project(user LANGUAGES C CXX)
find_package(hakmem %s REQUIRED)
foreach(target hakmem hakmem_static hakmem_classic hakmem_classic_static)
  add_executable(${target}_user main.c)
  target_link_libraries(${target}_user hakmem::${target})
endforeach()
add_executable(cxx_user main.cc)
target_link_libraries(cxx_user hakmem::hakmem)
"""


def run(*command, **more):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    if done.returncode != 0:
        raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}")
    return done.stdout


class Package(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.sources = packages.Sources(NAMES)

    def setUp(self):
        self.work = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR"))
        self.addCleanup(shutil.rmtree, self.work)
        self.user = os.path.join(self.work, "user")
        os.mkdir(self.user)
        for name in ("main.c", "main.cc"):
            with open(os.path.join(self.user, name), "w", encoding="utf-8") as file:
                file.write(PROGRAM)

    def install(self, *options, environment=None):
        return run(
            sys.executable, os.path.join(HERE, "install.py"), *NAMES, *options, env={**os.environ, **(environment or {})}
        )

    def served(self, program, lib, flavour="hakmem_c23"):
        said = run(program, env={"LD_LIBRARY_PATH": lib})
        self.assertEqual(said, f"{flavour} {self.sources.version} served\n")

    def compile_and_run(self, root, prefix, lib, cmake):
        """In two or three ways against what lies below `root`, if it were /; `lib` is below the prefix."""
        at = root + prefix
        libraries = f"{at}/{lib}"
        strict = ["-std=c99", "-D_DEFAULT_SOURCE", "-pedantic", "-Wall", "-Werror", "main.c"]
        user = os.path.join(self.user, "user")

        plain = [f"-I{at}/include", f"-L{libraries}"]
        run("gcc", *strict, *plain, "-Wl,--no-as-needed", "-lhakmem_c23", "-o", user, cwd=self.user)
        self.served(user, libraries)
        run("gcc", *strict, *plain, "-static", "-Wl,-u,malloc", "-lhakmem_classic", "-o", user, cwd=self.user)
        self.served(user, "", "hakmem_classic")

        if shutil.which("pkg-config"):
            environment = {
                **os.environ,
                "PKG_CONFIG_LIBDIR": f"{libraries}/pkgconfig",
                "PKG_CONFIG_SYSROOT_DIR": root,
                # The prefix is not one of the system's here.
                "PKG_CONFIG_ALLOW_SYSTEM_CFLAGS": "1",
                "PKG_CONFIG_ALLOW_SYSTEM_LIBS": "1",
            }
            for name, flavour in (("hakmem", "hakmem_c23"), ("hakmem_c23_header", "hakmem_c23_header")):
                for static in ([], ["-static"]):
                    flags = run("pkg-config", "--cflags", "--libs", name, env=environment).split()
                    run("gcc", *strict, "-Wl,--as-needed", *static, *flags, "-o", user, cwd=self.user)
                    self.served(user, libraries, flavour)
            self.assertEqual(run("pkg-config", "--modversion", "hakmem", env=environment).strip(), self.sources.version)
        else:
            print("pkg-config is not installed")

        if not cmake:
            return
        if shutil.which("cmake"):
            major, minor, _ = self.sources.version.split(".")
            for version, fits in ((f"{major}.{minor}", True), (f"{int(major) + 1}.0", False)):
                with open(os.path.join(self.user, "CMakeLists.txt"), "w", encoding="utf-8") as file:
                    file.write(CMAKE % version)
                configure = ["cmake", "-S", self.user, "-B", os.path.join(self.user, "build"), f"-DCMAKE_PREFIX_PATH={at}"]
                configure += ["-DCMAKE_LIBRARY_ARCHITECTURE=x86_64-linux-gnu", "-DCMAKE_EXE_LINKER_FLAGS=-Wl,--as-needed"]
                if fits:
                    run(*configure)
                else:
                    self.assertRaises(AssertionError, run, *configure)
                    continue
                run("cmake", "--build", os.path.join(self.user, "build"))
                for target, flavour in (
                    ("hakmem_user", "hakmem_c23"),
                    ("hakmem_static_user", "hakmem_c23"),
                    ("hakmem_classic_user", "hakmem_classic"),
                    ("hakmem_classic_static_user", "hakmem_classic"),
                    ("cxx_user", "hakmem_c23"),
                ):
                    self.served(os.path.join(self.user, "build", target), libraries, flavour)
                shutil.rmtree(os.path.join(self.user, "build"))
        else:
            print("cmake is not installed")

    def files_below(self, folder):
        return sorted(os.path.relpath(os.path.join(at, name), folder) for at, _, names in os.walk(folder) for name in names)

    def test_install_and_remove(self):
        prefix = os.path.join(self.work, "opt")
        self.install("--prefix", prefix)
        self.compile_and_run("", prefix, "lib", cmake=False)
        for page in self.files_below(prefix + "/share/man"):
            if shutil.which("man"):
                said = run("man", "--warnings", "-E", "UTF-8", "-l", f"{prefix}/share/man/{page}", cwd=prefix + "/share/man")
                # The path of a test's folder may be longer than a line.
                self.assertNotRegex(said, r"<standard input>.*warning(?!.*(adjust|break) line)", page)
        # The tool finds what it needs where it was installed.
        said = run(prefix + "/bin/hakmem", "run", "--stats", "/bin/true", env={"PATH": os.environ["PATH"]})
        self.assertIn("hakmem statistics", said)
        trace = os.path.join(self.work, "a.trace")
        run(prefix + "/bin/hakmem", "record", "-o", trace, "/bin/date", env={"PATH": os.environ["PATH"]})
        said = run(prefix + "/bin/hakmem", "replay", "--rounds", "3", "--allocators", "glibc,hakmem", trace, env={"PATH": os.environ["PATH"]})
        self.assertRegex(said, r"(?m)^hakmem +\d+\.\d+ s")
        # Over itself, and away again.
        self.install("--prefix", prefix)
        self.install("--prefix", prefix, "--remove")
        self.assertEqual(self.files_below(prefix), [])
        for folder in ("include/hakmem", "lib/hakmem", "share/hakmem", "share/doc/hakmem"):
            self.assertFalse(os.path.exists(f"{prefix}/{folder}"), folder)

    def test_destdir(self):
        destination = os.path.join(self.work, "root")
        options = ["--prefix", "/usr/local", "--libdir", "/usr/local/lib/x86_64-linux-gnu"]
        self.install(*options, environment={"DESTDIR": destination})
        self.assertTrue(os.path.exists(destination + "/usr/local/lib/x86_64-linux-gnu/libhakmem_c23.so.1"))
        self.compile_and_run(destination, "/usr/local", "lib/x86_64-linux-gnu", cmake=False)
        with open(destination + "/usr/local/lib/x86_64-linux-gnu/pkgconfig/hakmem.pc", encoding="utf-8") as file:
            self.assertIn("prefix=/usr/local\n", file.read())
        self.install(*options, "--destdir", destination, "--remove")
        self.assertEqual(self.files_below(destination), [])

    def make(self, **how):
        """The packages, made in a folder of their own."""
        folder = tempfile.mkdtemp(dir=self.work)
        umask = os.umask(how.pop("umask"))
        run(sys.executable, os.path.join(HERE, "make_packages.py"), folder, *NAMES, env={**os.environ, **how})
        os.umask(umask)
        return folder

    def test_packages_are_reproducible(self):
        one = self.make(umask=0o022, TZ="UTC", PYTHONHASHSEED="1", LC_ALL="C")
        two = self.make(umask=0o077, TZ="Asia/Tokyo", PYTHONHASHSEED="2", LC_ALL="C.UTF-8")
        self.assertEqual(os.listdir(one), os.listdir(two))
        self.assertEqual(len(os.listdir(one)), 3)
        for name in os.listdir(one):
            with open(f"{one}/{name}", "rb") as first, open(f"{two}/{name}", "rb") as second:
                self.assertEqual(first.read(), second.read(), name)

    def test_packages_can_be_used(self):
        if not shutil.which("dpkg-deb"):
            self.skipTest("dpkg-deb is not installed")
        folder = self.make(umask=0o022)
        root = os.path.join(self.work, "root")
        names = sorted(os.listdir(folder))
        self.assertEqual(names, ["hakmem-tools.deb", "libhakmem-dev.deb", "libhakmem1.deb"])
        for name in names:
            path = f"{folder}/{name}"
            self.assertEqual(run("dpkg-deb", "-f", path, "Version").strip(), self.sources.version)
            listed = [line.split()[5].rstrip("/") for line in run("dpkg-deb", "-c", path).splitlines()]
            self.assertEqual(len(listed), len(set(listed)), name)
            run("dpkg-deb", "-x", path, root)
            control = os.path.join(self.work, "control")
            run("dpkg-deb", "-e", path, control)
            run("md5sum", "--check", "--quiet", control + "/md5sums", cwd=root)
            shutil.rmtree(control)
        gdb = root + "/usr/share/gdb/auto-load/usr/lib/x86_64-linux-gnu/libhakmem_c23.so.1-gdb.py"
        self.assertTrue(os.path.exists(gdb))
        self.compile_and_run(root, "/usr", "lib/x86_64-linux-gnu", cmake=True)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], "-v"])
