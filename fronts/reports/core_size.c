// SPDX-License-Identifier: Apache-2.0
// The core file of a small process is small. The process dies; gdb's gcore or the kernel may not be
// there to write a core, so what would be in it is counted: the pages of private mappings that hold
// something, as /proc/self/smaps has them, and the mappings.
#include "fronts/reports/ways.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void use_some(void) {
    for (size_t i = 0; i < 1000; i++) {
        char *volatile block = malloc(i);
        CHECK(block != NULL);
        memset(block, 1, i);
        if (i % 2 != 0) {
            free(block);
        }
    }
}

// KiB of anonymous pages that are in memory, which is what a core holds of them.
static void small(void) {
    use_some();
    FILE *file = fopen("/proc/self/smaps", "r");
    CHECK(file != NULL);
    char line[512];
    size_t anonymous = 0;
    size_t mappings = 0;
    while (fgets(line, sizeof line, file) != NULL) {
        size_t kib;
        mappings += strncmp(line, "Size:", 5) == 0;
        if (sscanf(line, "Anonymous: %zu kB", &kib) == 1) {
            anonymous += kib;
        }
    }
    fclose(file);
    CHECK(anonymous < 4096);
    CHECK(mappings < 120);
}

// A core by the kernel, where it writes one into the working directory.
static void real(void) {
    char folder[] = "/tmp/core_size.XXXXXX";
    char pattern[64] = "";
    FILE *file = fopen("/proc/sys/kernel/core_pattern", "r");
    CHECK(file != NULL && fgets(pattern, sizeof pattern, file) != NULL && fclose(file) == 0);
    if (strncmp(pattern, "core", 4) != 0 || mkdtemp(folder) == NULL) {
        return;
    }
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        struct rlimit limit = {1 << 28, 1 << 28};
        if (chdir(folder) != 0 || setrlimit(RLIMIT_CORE, &limit) != 0) {
            _exit(0);
        }
        use_some();
        abort();
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    char name[128];
    struct stat core;
    snprintf(name, sizeof name, "%s/core", folder);
    if (stat(name, &core) != 0) {
        snprintf(name, sizeof name, "%s/core.%d", folder, (int)pid);
    }
    if (stat(name, &core) == 0) {
        CHECK(core.st_blocks * 512 < 8 << 20);
        CHECK(core.st_size < 128 << 20);
        unlink(name);
    }
    rmdir(folder);
}

int main(int argc, char **argv) {
    static const struct way ways[] = {{"small", small}, {"real", real}, {NULL, NULL}};
    return run_way(ways, argc, argv);
}
