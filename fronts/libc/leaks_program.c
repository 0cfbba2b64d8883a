// SPDX-License-Identifier: Apache-2.0
// Programs for leaks_test: the blocks that each loses are known.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KNOWN \
    __attribute__((noipa, optimize("O2", "omit-frame-pointer", "no-optimize-sibling-calls")))

struct node {
    struct node *next;
    char *text;
    uintptr_t pad[3];
};

static struct node *list; // a root
static void *global;
static __thread void *local;
static void **table;

// Clears stale pointers in the caller's registers and in the stack below the caller.
KNOWN static void wipe(void) {
    volatile char deep[16384];
    for (size_t i = 0; i < sizeof deep; i++) {
        deep[i] = 0;
    }
    __asm__ volatile(
        "xor %%eax, %%eax\n\txor %%ebx, %%ebx\n\txor %%ecx, %%ecx\n\txor %%edx, %%edx\n\t"
        "xor %%esi, %%esi\n\txor %%edi, %%edi\n\txor %%r8d, %%r8d\n\txor %%r9d, %%r9d\n\t"
        "xor %%r10d, %%r10d\n\txor %%r11d, %%r11d\n\txor %%r12d, %%r12d\n\t"
        "xor %%r13d, %%r13d\n\txor %%r14d, %%r14d\n\txor %%r15d, %%r15d"
        :
        :
        : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
          "r15");
}

KNOWN static void lose_small(void) {
    for (int i = 0; i < 7; i++) {
        memset(malloc(100), 0x11, 100);
    }
}

KNOWN static void lose_large(void) {
    for (int i = 0; i < 2; i++) {
        memset(malloc(300000), 0x22, 300000);
    }
}

// Loses a list: no pointer leads to it any more.
KNOWN static void lose_list(void) {
    struct node *first = NULL;
    for (int i = 0; i < 50; i++) {
        struct node *node = calloc(1, sizeof *node);
        node->next = first;
        node->text = malloc(33);
        first = node;
    }
}

// Loses two blocks that point to each other.
KNOWN static void lose_ring(void) {
    struct node *a = calloc(1, sizeof *a), *b = calloc(1, sizeof *b);
    a->next = b;
    b->next = a;
}

KNOWN static void keep_list(void) {
    for (int i = 0; i < 2000; i++) {
        struct node *node = calloc(1, sizeof *node);
        node->next = list;
        node->text = malloc(i % 3 == 0 ? 40000 : 20);
        list = node;
    }
}

KNOWN static void keep_others(void) {
    global = (char *)malloc(1000) + 500; // into the block
    local = malloc(1001);
    table = malloc(100000 * sizeof *table);
    for (int i = 0; i < 100000; i += 1000) {
        table[i] = malloc(77);
    }
}

static void *volatile ready;

KNOWN static void *thread(void *unused) {
    (void)unused;
    void *volatile held = malloc(5000);
    local = malloc(600);
    ready = (void *)&held;
    for (;;) {
        pause();
    }
    return held;
}

KNOWN static void keep_in_thread(void) {
    pthread_t id;
    pthread_create(&id, NULL, thread, NULL);
    pthread_detach(id);
    while (ready == NULL) {
        usleep(1000);
    }
    ready = NULL;
}

KNOWN static void free_all(void) {
    while (list != NULL) {
        struct node *next = list->next;
        free(list->text);
        free(list);
        list = next;
    }
    free((char *)global - 500);
    free(local);
    for (int i = 0; i < 100000; i += 1000) {
        free(table[i]);
    }
    free(table);
    table = NULL;
}

KNOWN static void lose(void) {
    lose_small();
    lose_large();
    lose_list();
    lose_ring();
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    keep_list();
    keep_others();
    if (strcmp(mode, "lose") == 0) {
        keep_in_thread();
        lose();
    } else if (strcmp(mode, "threads") == 0) {
        keep_in_thread();
    } else if (strcmp(mode, "free") == 0) {
        free_all();
    } else if (strcmp(mode, "many") == 0) {
        for (int i = 0; i < 20000; i++) {
            lose_small();
        }
    }
    wipe();
    return 0;
}
