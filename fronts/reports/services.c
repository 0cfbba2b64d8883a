// SPDX-License-Identifier: Apache-2.0
// Services of libc and of the dynamic linker that allocate for themselves and for the program, some
// of them in libraries that they load: blocks from before the allocator was there, from ld.so and
// from libc are freed and resized where they should be.
//
// services WAY TLS_LIBRARY
#include "fronts/reports/ways.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <fcntl.h>
#include <glob.h>
#include <grp.h>
#include <iconv.h>
#include <langinfo.h>
#include <link.h>
#include <locale.h>
#include <netdb.h>
#include <obstack.h>
#include <pthread.h>
#include <pwd.h>
#include <regex.h>
#include <search.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wordexp.h>

#define obstack_chunk_alloc malloc
#define obstack_chunk_free  free

static const char *tls_library;

static void locales(void) {
    static const char *const names[] = {"C.UTF-8", "C", "POSIX", "en_US.UTF-8", "no_SUCH", ""};
    for (size_t i = 0; i < 100; i++) {
        const char *name = names[i % 6];
        (void)setlocale(LC_ALL, name);
        locale_t locale = newlocale(LC_ALL_MASK, name, (locale_t)0);
        if (locale != (locale_t)0) {
            locale_t copy = duplocale(locale);
            CHECK(copy != (locale_t)0);
            locale_t old = uselocale(copy);
            CHECK(nl_langinfo(CODESET) != NULL);
            uselocale(old);
            freelocale(copy);
            freelocale(locale);
        }
    }
}

static void convert(const char *to, const char *from) {
    iconv_t how = iconv_open(to, from);
    if (how == (iconv_t)-1) {
        return; // not among the modules of this machine
    }
    char text[] = "some text";
    char out[200];
    char *in_at = text;
    char *out_at = out;
    size_t in_left = sizeof text;
    size_t out_left = sizeof out;
    (void)iconv(how, &in_at, &in_left, &out_at, &out_left); // The text may be none of that code.
    CHECK(iconv_close(how) == 0);
}

static void conversions(void) {
    static const char *const names[] = {"UTF-8",  "UTF-16",    "ISO-8859-15", "KOI8-R",
                                        "EUC-JP", "SHIFT_JIS", "ISO-2022-JP", "GB18030",
                                        "BIG5",   "CP1252",    "UTF-7",       "IBM037"};
    for (size_t i = 0; i < 12; i++) {
        for (size_t j = 0; j < 12; j++) {
            convert(names[i], names[j]);
        }
    }
    convert("no such", "UTF-8");
}

static void names(void) {
    for (int i = 0; i < 20; i++) {
        struct addrinfo hint = {.ai_socktype = SOCK_STREAM};
        struct addrinfo *list = NULL;
        if (getaddrinfo("localhost", "80", &hint, &list) == 0) {
            freeaddrinfo(list);
        }
        hint.ai_flags = AI_NUMERICHOST;
        CHECK(getaddrinfo("127.0.0.1", "80", &hint, &list) == 0);
        freeaddrinfo(list);
        CHECK(getaddrinfo("no such host", NULL, &hint, &list) != 0);
        CHECK(getpwuid(0) != NULL && getpwnam("root") != NULL && getgrgid(0) != NULL);
        (void)getpwnam("nobody-of-that-name");
        gid_t groups[64];
        int count = 64;
        (void)getgrouplist("root", 0, groups, &count);
        (void)getservbyname("http", "tcp");
        (void)gethostbyname("localhost");
        setpwent();
        while (getpwent() != NULL) {
        }
        endpwent();
    }
}

static void *names_in_thread(void *arg) {
    names();
    conversions();
    return arg;
}

static void in_threads(void) {
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++) {
        CHECK(pthread_create(&threads[i], NULL, names_in_thread, NULL) == 0);
    }
    for (size_t i = 0; i < 4; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
}

static int compare(const void *a, const void *b) {
    return strcmp(a, b);
}

static void containers(void) {
    regex_t regex;
    CHECK(regcomp(&regex, "^(a|b)*[[:alpha:]]+c{2,5}$", REG_EXTENDED) == 0);
    CHECK(regexec(&regex, "ababxccc", 0, NULL, 0) == 0);
    regfree(&regex);
    glob_t found;
    CHECK(glob("/proc/s*", 0, NULL, &found) == 0);
    globfree(&found);
    wordexp_t words;
    CHECK(wordexp("a \"b c\" ~ $HOME", &words, WRDE_NOCMD) == 0);
    wordfree(&words);
    CHECK(hcreate(100) != 0);
    ENTRY entry = {strdup("key"), NULL};
    CHECK(hsearch(entry, ENTER) != NULL);
    hdestroy();
    free(entry.key);
    void *root = NULL;
    for (int i = 0; i < 100; i++) {
        char *text = NULL;
        CHECK(asprintf(&text, "%d", i * 7919) > 0);
        CHECK(tsearch(text, &root, compare) != NULL);
    }
    tdestroy(root, free);
    struct obstack stack;
    obstack_init(&stack);
    for (int i = 0; i < 1000; i++) {
        CHECK(obstack_copy0(&stack, "text", 4) != NULL);
    }
    obstack_free(&stack, NULL);
    void *addresses[50];
    int count = backtrace(addresses, 50);
    char **symbols = backtrace_symbols(addresses, count);
    CHECK(symbols != NULL);
    free(symbols);
    for (int i = 0; i < 1000; i++) {
        char name[32];
        snprintf(name, sizeof name, "SERVICES_%d", i);
        CHECK(setenv(name, "value", 1) == 0);
    }
    CHECK(unsetenv("SERVICES_5") == 0 && putenv(strdup("SERVICES_X=1")) == 0 && clearenv() == 0);
    FILE *files[30];
    for (size_t i = 0; i < 30; i++) {
        files[i] = fopen("/dev/null", "w+");
        CHECK(files[i] != NULL && setvbuf(files[i], NULL, i % 2 ? _IOFBF : _IOLBF, 5000) == 0);
        fprintf(files[i], "%2000d", 1);
    }
    for (size_t i = 0; i < 30; i++) {
        CHECK(fclose(files[i]) == 0);
    }
}

// More libraries with thread-local data than the first vector of a thread has room for: the dynamic
// linker resizes it, also one that it has allocated before there was a malloc.
enum { LIBRARIES = 70 };

static void *libraries[LIBRARIES];

static void *touch_all(void *arg) {
    for (size_t i = 0; i < LIBRARIES; i++) {
        char *(*touch)(void);
        *(void **)&touch = dlsym(libraries[i], "reports_tls");
        CHECK(touch != NULL);
        char *data = touch();
        CHECK(data[0] == 1 && data[5000] == 0);
        data[5000] = 1;
    }
    return arg;
}

static void copy_file(const char *from, const char *to) {
    struct stat about;
    int in = open(from, O_RDONLY);
    int out = open(to, O_WRONLY | O_CREAT | O_EXCL, 0700);
    CHECK(in >= 0 && out >= 0 && fstat(in, &about) == 0);
    CHECK(sendfile(out, in, NULL, (size_t)about.st_size) == about.st_size);
    close(in);
    close(out);
}

static void thread_local_data(void) {
    char folder[] = "/tmp/services.XXXXXX";
    CHECK(mkdtemp(folder) != NULL);
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < LIBRARIES; i++) {
            char path[64];
            snprintf(path, sizeof path, "%s/%zu.so", folder, i);
            copy_file(tls_library, path);
            libraries[i] = dlopen(path, RTLD_NOW);
            unlink(path);
            CHECK(libraries[i] != NULL);
        }
        touch_all(NULL);
        for (int i = 0; i < 20; i++) {
            pthread_t thread;
            CHECK(pthread_create(&thread, NULL, touch_all, NULL) == 0);
            CHECK(pthread_join(thread, NULL) == 0);
        }
        for (size_t i = 0; i < LIBRARIES; i++) {
            CHECK(dlclose(libraries[i]) == 0);
        }
    }
    rmdir(folder);
}

// A library of a namespace of its own with thread-local data. (Threads that
// such a library starts crash on glibc's malloc, too.)
static void *touch_in_namespace(void *library) {
    char *(*touch)(void);
    *(void **)&touch = dlsym(library, "reports_tls");
    CHECK(touch != NULL && touch()[0] == 1);
    int (*allocate)(void);
    *(void **)&allocate = dlsym(library, "reports_allocate");
    CHECK(allocate != NULL && allocate() == 0);
    return NULL;
}

static void namespaces(void) {
    for (int i = 0; i < 5; i++) {
        void *library = dlmopen(LM_ID_NEWLM, tls_library, RTLD_NOW);
        CHECK(library != NULL);
        touch_in_namespace(library);
        CHECK(dlclose(library) == 0);
    }
}

static void search_paths(void) {
    void *libc = dlopen("libc.so.6", RTLD_LAZY);
    CHECK(libc != NULL);
    Dl_serinfo size;
    CHECK(dlinfo(libc, RTLD_DI_SERINFOSIZE, &size) == 0);
    Dl_serinfo *all = malloc(size.dls_size);
    CHECK(dlinfo(libc, RTLD_DI_SERINFOSIZE, all) == 0 && dlinfo(libc, RTLD_DI_SERINFO, all) == 0);
    free(all);
    for (int i = 0; i < 100; i++) {
        CHECK(dlopen("libno_such.so", RTLD_NOW) == NULL && dlerror() != NULL);
        CHECK(dlsym(libc, "no_such") == NULL && dlerror() != NULL);
        CHECK(dlopen("libno_such.so", RTLD_NOW) == NULL); // and nobody asks why
    }
    CHECK(dlclose(libc) == 0);
}

int main(int argc, char **argv) {
    static const struct way ways[] = {{"locales", locales},
                                      {"conversions", conversions},
                                      {"names", names},
                                      {"in_threads", in_threads},
                                      {"containers", containers},
                                      {"thread_local_data", thread_local_data},
                                      {"namespaces", namespaces},
                                      {"search_paths", search_paths},
                                      {NULL, NULL}};
    tls_library = argc > 2 ? argv[2] : "";
    return run_way(ways, argc, argv);
}
