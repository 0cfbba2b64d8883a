// SPDX-License-Identifier: Apache-2.0
// shapes STEPS: makes a heap of one shape and prints what is held at named moments. STEPS is a
// comma-separated list:
//
//   fill=SIZES:BYTES              allocates blocks of SIZES until there are BYTES more
//   align=SIZES:ALIGNMENT:BYTES   the same by posix_memalign
//   free                          frees them, the oldest first
//   keep=N                        frees all but one of N, chosen at random; those are kept from now
//   on drop                          frees what was kept cache=SIZES:MOST:BYTES        allocates
//   BYTES of blocks to keep, and frees kept ones at random
//                                 whenever there would be more than MOST bytes of them
//   group=SIZES:EACH:MOST:BYTES   the same by groups of blocks, of EACH bytes, that are freed as
//   one drift=SLOTS:OPERATIONS:SIZES  replaces blocks at random; sizes are around a mean that goes
//                                 through SIZES, half of it to one and a half
//   values=KEYS:OPERATIONS:SIZES  overwrites values at random, each by one up to a third larger
//   shrink=FROM:SIZES:BYTES       allocates and writes blocks of FROM bytes and shrinks each by
//                                 realloc to one of SIZES, until there are BYTES
//   tables=COUNT:SIZES:USED:N     has COUNT blocks by calloc, with USED bytes in each written, page
//                                 by page, and replaces N of them, chosen at random
//   buffers=COUNT:SIZES:USED:N    the same by malloc, with the first bytes written
//   grow=TO                       grows each block by realloc, one after the other
//   side=COUNT:TO:BY              grows COUNT blocks by BY bytes at a time, in turn, until TO
//   once=SIZES:COUNT              allocates and frees one block of each of COUNT sizes, spread over
//                                 SIZES
//   handoff=SIZES:BYTES:TIMES     all threads but one allocate BYTES, while that one frees what the
//                                 others allocated the time before
//   trim                          calls malloc_trim(0)
//   sleep=MS                      does nothing
//   quiet=MS                      nearly nothing: a few calls every 50 ms
//
//   threads=N                     starts N threads; from now on each does each step, all at a time
//   turn                          only the next thread does the steps that follow
//   end                           ends the threads; what they have goes to the kept blocks
//   fork                          the steps that follow are done by a child of fork()
//   mark=NAME                     prints what there is (moment.h)
//   N*[STEPS]                     does STEPS N times
//
// SIZES is A, or A-B (uniform), A~B (uniform in the logarithm), A^B (A, doubled up to B), or mixed
// (worker_mixed_size). A number may end in K or M (2^10, 2^20), and then in %: that many percent
// of it as --percent says. Live bytes are those that the program uses of its live blocks.
#include "benchmarks/workers/shapes/blocks.h"
#include "benchmarks/workers/shapes/moment.h"
#include "benchmarks/workers/shapes/steps.h"

#include <emmintrin.h>
#include <semaphore.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NODES_MOST = 128, SCALES_MOST = 64, NAME_MOST = 32 };

// A step, or the start of a loop over the nodes up to `end`.
struct node {
    const struct step *step;
    void (*control)(const struct node *node);
    char name[NAME_MOST]; // of a moment
    struct range arguments[ARGUMENTS_MOST];
    uint64_t times, end; // of a loop
};

static uint64_t percent = 100, pause_ms, seed = 42;
static struct node nodes[NODES_MOST];
static uint64_t node_count;

// Threads.

static struct lane lanes[LANES_MOST];
static sem_t begins[LANES_MOST], ended;
static pthread_t ids[LANES_MOST];
static uint64_t thread_count, turn_of; // turn_of: the thread that does the steps; 0: all do
static const struct node *current;     // what threads do next; NULL: they end

static void wait_for(sem_t *semaphore) {
    while (sem_wait(semaphore) != 0) {
    }
}

static void *thread_body(void *arg) {
    struct lane *lane = arg;
    for (;;) {
        wait_for(&begins[lane->number]);
        if (current == NULL) {
            return NULL;
        }
        current->step->run(lane, current->arguments);
        sem_post(&ended);
    }
}

static void control_threads(const struct node *node) {
    uint64_t count = node->arguments[0].low;
    if (thread_count != 0 || count == 0 || count >= LANES_MOST) {
        worker_die("threads cannot be started here, or as many");
    }
    thread_count = count;
    turn_of = 0;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    for (uint64_t i = 1; i <= count; i++) {
        lane_reset(&lanes[i], i, seed);
        sem_init(&begins[i], 0, 0);
        if (pthread_attr_setstack(&attributes, blocks_stack(i), STACK_BYTES) != 0 ||
            pthread_create(&ids[i], &attributes, thread_body, &lanes[i]) != 0) {
            worker_die("cannot start a thread");
        }
    }
    steps_for_threads(&lanes[1], count);
}

static void control_turn(const struct node *node) {
    (void)node;
    turn_of = turn_of % (thread_count != 0 ? thread_count : 1) + 1;
}

static void control_end(const struct node *node) {
    (void)node;
    current = NULL;
    for (uint64_t i = 1; i <= thread_count; i++) {
        sem_post(&begins[i]);
    }
    for (uint64_t i = 1; i <= thread_count; i++) {
        pthread_join(ids[i], NULL);
        set_move(&lanes[i].heap, &lanes[0].kept);
        set_move(&lanes[i].kept, &lanes[0].kept);
    }
    thread_count = 0;
}

static void run_step(const struct node *node) {
    if (thread_count == 0) {
        node->step->run(&lanes[0], node->arguments);
        return;
    }
    uint64_t first = turn_of == 0 ? 1 : turn_of;
    uint64_t last = turn_of == 0 ? thread_count : turn_of;
    current = node;
    for (uint64_t i = first; i <= last; i++) {
        sem_post(&begins[i]);
    }
    for (uint64_t i = first; i <= last; i++) {
        wait_for(&ended);
    }
}

static void control_fork(const struct node *node) {
    (void)node;
    if (thread_count != 0) {
        worker_die("a child of fork() has no threads to go on with");
    }
    double cpu_ns = moment_cpu_ns();
    uint64_t faults = moment_faults();
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        moment_forked(cpu_ns, faults);
        return;
    }
    int status = 1;
    if (child < 0 || waitpid(child, &status, 0) < 0 || status != 0) {
        worker_die("the forked child failed");
    }
    exit(0);
}

static void control_mark(const struct node *node) {
    uint64_t live = 0;
    for (uint64_t i = 0; i <= thread_count; i++) {
        live += lanes[i].heap.bytes + lanes[i].kept.bytes;
    }
    moment_print(node->name, live);
}

// Parsing.

static const struct control {
    const char *name;
    unsigned arguments;
    void (*run)(const struct node *node);
} controls[] = {
    {"threads", 1, control_threads}, {"turn", 0, control_turn}, {"end", 0, control_end},
    {"fork", 0, control_fork},       {"mark", 1, control_mark},
};

static void bad(const char *what, const char *at) __attribute__((noreturn));
static void bad(const char *what, const char *at) {
    static char why[128];
    snprintf(why, sizeof why, "%s at \"%.40s\"", what, at);
    worker_die(why);
}

static uint64_t parse_number(const char **at) {
    char *end;
    if (**at < '0' || **at > '9') {
        bad("no number", *at);
    }
    uint64_t value = strtoull(*at, &end, 10);
    unsigned shift = *end == 'K' ? 10 : *end == 'M' ? 20 : 0;
    end += shift != 0;
    if (value > UINT32_MAX) {
        bad("too large a number", *at);
    }
    value <<= shift;
    if (*end == '%') {
        end++;
        value = value * percent / 100;
        value = value != 0 ? value : 1;
    }
    *at = end;
    return value;
}

static double *make_scale(double low, double high) {
    static double scales[SCALES_MOST][RANGE_STEPS + 1];
    static unsigned used;
    if (used == SCALES_MOST) {
        worker_die("too many logarithmic ranges");
    }
    // The 256th root by eight square roots; libm is not linked.
    __m128d root = _mm_set_sd(high / low);
    for (int i = RANGE_STEPS; i > 1; i /= 2) {
        root = _mm_sqrt_sd(root, root);
    }
    double *scale = scales[used++];
    scale[0] = low;
    for (int i = 1; i <= RANGE_STEPS; i++) {
        scale[i] = scale[i - 1] * _mm_cvtsd_f64(root);
    }
    return scale;
}

static struct range parse_range(const char **at) {
    static const char separators[] = "-~^"; // in the order of the kinds
    struct range range = {.kind = MIXED};
    if (strncmp(*at, "mixed", 5) == 0) {
        *at += 5;
        return range;
    }
    range.kind = UNIFORM;
    range.low = range.high = parse_number(at);
    const char *separator = **at != '\0' ? strchr(separators, **at) : NULL;
    if (separator != NULL) {
        range.kind = (enum kind)(separator - separators);
        (*at)++;
        range.high = parse_number(at);
    }
    if (range.high < range.low || (range.low == 0 && range.kind != UNIFORM)) {
        bad("an empty range before", *at);
    }
    if (range.kind == LOGARITHMIC) {
        range.scale = make_scale((double)range.low, (double)range.high);
    }
    return range;
}

static struct node *new_node(void) {
    if (node_count == NODES_MOST) {
        worker_die("too many steps");
    }
    return &nodes[node_count++];
}

// NAME, or NAME=ARGUMENT:ARGUMENT...
static void parse_step(const char **at) {
    struct node *node = new_node();
    const char *begin = *at;
    size_t length = strcspn(begin, "=,]");
    char name[NAME_MOST];
    snprintf(name, sizeof name, "%.*s", (int)length, begin);
    *at += length;
    unsigned arguments = 0;
    if (strcmp(name, "mark") == 0 && **at == '=') {
        length = strcspn(++*at, ",]");
        snprintf(node->name, sizeof node->name, "%.*s", (int)length, *at);
        *at += length;
        arguments = length != 0;
    } else if (**at == '=') {
        do {
            if (arguments == ARGUMENTS_MOST) {
                bad("too many arguments", begin);
            }
            (*at)++;
            node->arguments[arguments++] = parse_range(at);
        } while (**at == ':');
    }
    node->step = step_find(name, arguments);
    for (size_t i = 0; i < sizeof controls / sizeof *controls; i++) {
        if (strcmp(name, controls[i].name) == 0 && arguments == controls[i].arguments) {
            node->control = controls[i].run;
        }
    }
    if (node->step == NULL && node->control == NULL) {
        bad("no such step", begin);
    }
}

static void parse_list(const char **at) {
    for (;; (*at)++) {
        if (**at >= '0' && **at <= '9') {
            struct node *loop = new_node();
            loop->times = parse_number(at);
            if (strncmp(*at, "*[", 2) != 0) {
                bad("no *[", *at);
            }
            *at += 2;
            parse_list(at);
            if (**at != ']') {
                bad("no ]", *at);
            }
            (*at)++;
            loop->end = node_count;
        } else {
            parse_step(at);
        }
        if (**at != ',') {
            return;
        }
    }
}

static void run_nodes(uint64_t from, uint64_t to) {
    for (uint64_t i = from; i < to; i++) {
        if (nodes[i].control != NULL) {
            nodes[i].control(&nodes[i]);
        } else if (nodes[i].step != NULL) {
            run_step(&nodes[i]);
        } else {
            for (uint64_t time = 0; time < nodes[i].times; time++) {
                run_nodes(i + 1, nodes[i].end);
            }
            i = nodes[i].end - 1;
        }
    }
}

int main(int argc, char **argv) {
    const struct worker_option table[] = {
        {"percent", 1, 100, &percent},
        {"pause-ms", 0, 1000000, &pause_ms},
        {"seed", 0, UINT64_MAX, &seed},
        {NULL, 0, 0, NULL},
    };
    worker_options(argc, argv, table, " STEPS", 1);
    static char output[64 << 10];
    setvbuf(stdout, output, _IOFBF, sizeof output);
    const char *at = argv[optind];
    if (*at != '\0') {
        parse_list(&at);
        if (*at != '\0') {
            bad("a step ends wrongly", at);
        }
    }
    steps_pause_at_most(pause_ms);
    blocks_reserve();
    lane_reset(&lanes[0], 0, seed);
    sem_init(&ended, 0, 0);
    worker_report_allocator();
    moment_start();
    run_nodes(0, node_count);
    return 0;
}
