// SPDX-License-Identifier: Apache-2.0
// Code that does not run on its thread's own stack: coroutines that move between threads, contexts
// of makecontext(), handlers on an alternative stack, jumps out of both.
#include "fronts/reports/ways.h"

#include <malloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

enum { STACK = 64 << 10, COROUTINES = 64, THREADS = 4, STEPS = 300 };

struct coroutine {
    ucontext_t context;
    ucontext_t *back; // the worker that runs it now
    char *stack;
    unsigned number, steps;
    void *blocks[16];
    pthread_mutex_t lock;
    int done;
};

static struct coroutine coroutines[COROUTINES];

// Yields to whichever thread has resumed it: a coroutine may be resumed by another one each time.
static __attribute__((noinline)) void yield(struct coroutine *self) {
    CHECK(swapcontext(&self->context, self->back) == 0);
}

static void body(unsigned low, unsigned high) {
    struct coroutine *self = (struct coroutine *)((uintptr_t)high << 32 | low);
    for (; self->steps < STEPS; self->steps++) {
        size_t i = self->steps % 16;
        size_t size = (size_t)(self->number * 37 + self->steps * 101) % 3000 + 16;
        if (self->blocks[i] != NULL) {
            CHECK(*(unsigned *)self->blocks[i] == self->number);
            free(self->blocks[i]);
        }
        self->blocks[i] = self->steps % 5 == 0 ? calloc(1, size) : malloc(size);
        CHECK(self->blocks[i] != NULL);
        yield(self);
        memset(self->blocks[i], 0x55, size);
        *(unsigned *)self->blocks[i] = self->number;
        self->blocks[i] = realloc(self->blocks[i], size * 2);
        yield(self);
    }
    for (size_t i = 0; i < 16; i++) {
        free(self->blocks[i]);
    }
    self->done = 1;
    yield(self);
}

static void *work(void *arg) {
    unsigned seed = (unsigned)(uintptr_t)arg;
    ucontext_t here;
    for (int done = 0; done < COROUTINES;) {
        done = 0;
        for (unsigned i = 0; i < COROUTINES; i++) {
            seed = seed * 1664525 + 1013904223;
            struct coroutine *next = &coroutines[(i + (seed >> 16)) % COROUTINES];
            if (pthread_mutex_trylock(&next->lock) != 0) {
                continue;
            }
            if (!next->done) {
                next->back = &here;
                CHECK(swapcontext(&here, &next->context) == 0);
            }
            pthread_mutex_unlock(&next->lock);
        }
        for (unsigned i = 0; i < COROUTINES; i++) {
            pthread_mutex_lock(&coroutines[i].lock);
            done += coroutines[i].done;
            pthread_mutex_unlock(&coroutines[i].lock);
        }
    }
    return NULL;
}

static void start_coroutine(struct coroutine *new, unsigned number) {
    new->number = number;
    new->stack = malloc(STACK); // as libraries for coroutines do
    CHECK(new->stack != NULL);
    pthread_mutex_init(&new->lock, NULL);
    CHECK(getcontext(&new->context) == 0);
    new->context.uc_stack.ss_sp = new->stack;
    new->context.uc_stack.ss_size = STACK;
    makecontext(&new->context, (void (*)(void))body, 2, (unsigned)(uintptr_t) new,
                (unsigned)((uintptr_t) new >> 32));
}

static void start_coroutines(void) {
    for (unsigned i = 0; i < COROUTINES; i++) {
        start_coroutine(&coroutines[i], i + 1);
    }
}

static void coroutines_move(void) {
    start_coroutines();
    pthread_t threads[THREADS];
    for (size_t i = 0; i < THREADS; i++) {
        CHECK(pthread_create(&threads[i], NULL, work, (void *)(i + 1)) == 0);
    }
    for (size_t i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    for (size_t i = 0; i < COROUTINES; i++) {
        free(coroutines[i].stack);
    }
}

static void one_thread(void) {
    start_coroutines();
    work(NULL);
    for (size_t i = 0; i < COROUTINES; i++) {
        free(coroutines[i].stack);
    }
}

// setcontext() leaves a context for good, with blocks that it had.
static ucontext_t main_context;
static void *left_behind;

static void leave(void) {
    left_behind = malloc(1000);
    memset(left_behind, 3, 1000);
    setcontext(&main_context);
}

static void set_context(void) {
    char *stack = malloc(STACK);
    for (volatile int i = 0; i < 100; i++) {
        ucontext_t context;
        CHECK(getcontext(&context) == 0);
        context.uc_stack.ss_sp = stack;
        context.uc_stack.ss_size = STACK;
        makecontext(&context, leave, 0);
        volatile int back = 0;
        CHECK(getcontext(&main_context) == 0);
        if (!back) {
            back = 1;
            setcontext(&context);
        }
        CHECK(((char *)left_behind)[999] == 3);
        free(left_behind);
    }
    free(stack);
}

// A handler on an alternative stack, which is a block of the heap, for a signal that the program
// raises itself: malloc is safe there, as no call of it is interrupted.
static void in_handler(int signal) {
    (void)signal;
    void *blocks[100];
    for (size_t i = 0; i < 100; i++) {
        blocks[i] = malloc(i * 100);
    }
    for (size_t i = 0; i < 100; i++) {
        free(blocks[i]);
    }
    malloc_trim(0);
}

static void *with_alternative(void *arg) {
    stack_t stack = {.ss_sp = malloc(STACK), .ss_size = STACK};
    CHECK(stack.ss_sp != NULL && sigaltstack(&stack, NULL) == 0);
    for (int i = 0; i < 50; i++) {
        CHECK(raise(SIGUSR1) == 0);
        free(malloc(100));
    }
    stack_t none = {.ss_flags = SS_DISABLE};
    CHECK(sigaltstack(&none, NULL) == 0);
    free(stack.ss_sp);
    return arg;
}

static void alternative(void) {
    struct sigaction action = {.sa_handler = in_handler, .sa_flags = SA_ONSTACK};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    with_alternative(NULL);
    for (int i = 0; i < 20; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, with_alternative, NULL) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
    }
}

// A fault, handled on the alternative stack and left by siglongjmp().
static sigjmp_buf fault_jump;

static void on_fault(int signal) {
    free(malloc(100));
    siglongjmp(fault_jump, signal);
}

static void jump_out(void) {
    stack_t stack = {.ss_sp = malloc(STACK), .ss_size = STACK};
    CHECK(sigaltstack(&stack, NULL) == 0);
    struct sigaction action = {.sa_handler = on_fault, .sa_flags = SA_ONSTACK};
    CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
    char *none = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(none != MAP_FAILED);
    for (volatile int i = 0; i < 100; i++) {
        if (sigsetjmp(fault_jump, 1) == 0) {
            *(volatile char *)none = 1;
            CHECK(!"no fault");
        }
        free(malloc(1000));
    }
}

// A thread whose stack the program has taken from the heap.
static void *shallow(void *arg) {
    free(malloc(100));
    free(malloc(100000));
    return arg;
}

static void heap_stack(void) {
    for (int i = 0; i < 50; i++) {
        pthread_attr_t attr;
        void *stack = aligned_alloc(4096, STACK);
        CHECK(stack != NULL && pthread_attr_init(&attr) == 0);
        CHECK(pthread_attr_setstack(&attr, stack, STACK) == 0);
        pthread_t thread;
        CHECK(pthread_create(&thread, &attr, shallow, NULL) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
        free(stack);
    }
}

int main(int argc, char **argv) {
    static const struct way ways[] = {{"coroutines_move", coroutines_move},
                                      {"one_thread", one_thread},
                                      {"set_context", set_context},
                                      {"alternative", alternative},
                                      {"jump_out", jump_out},
                                      {"heap_stack", heap_stack},
                                      {NULL, NULL}};
    return run_way(ways, argc, argv);
}
