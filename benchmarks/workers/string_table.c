// SPDX-License-Identifier: Apache-2.0
// string_table: a table of strings is built, grown and taken down, as a compiler, an indexer or a
// shell does it: strdup of each new word, a node a word, a table that doubles by calloc, and lists
// of places that grow by realloc.
#include "benchmarks/workers/worker.h"

static uint64_t passes = 6, words = 400000, seed = 42;

struct node {
    struct node *next;
    char *word;
    uint64_t hash;
    uint32_t *places;
    uint32_t count, room;
};

static struct node **buckets;
static uint64_t bucket_count, node_count;

static uint64_t hash_of(const char *word) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (; *word != '\0'; word++) {
        hash = (hash ^ (unsigned char)*word) * 0x100000001b3u;
    }
    return hash ^ hash >> 32;
}

static void grow(void) {
    uint64_t count = bucket_count == 0 ? 64 : 2 * bucket_count;
    struct node **table = worker_check(calloc(count, sizeof(struct node *)));
    for (uint64_t i = 0; i < bucket_count; i++) {
        for (struct node *node = buckets[i], *next; node != NULL; node = next) {
            next = node->next;
            node->next = table[node->hash & (count - 1)];
            table[node->hash & (count - 1)] = node;
        }
    }
    free(buckets);
    buckets = table;
    bucket_count = count;
}

static void add(const char *word, uint32_t place) {
    if (node_count == bucket_count) {
        grow();
    }
    uint64_t hash = hash_of(word);
    struct node *node = buckets[hash & (bucket_count - 1)];
    while (node != NULL && (node->hash != hash || strcmp(node->word, word) != 0)) {
        node = node->next;
    }
    if (node == NULL) {
        node = worker_check(calloc(1, sizeof *node));
        node->word = worker_check(strdup(word));
        node->hash = hash;
        node->next = buckets[hash & (bucket_count - 1)];
        buckets[hash & (bucket_count - 1)] = node;
        node_count++;
    }
    if (node->count == node->room) {
        node->room += node->room < 2 ? 2 : node->room / 2;
        node->places = worker_check(realloc(node->places, node->room * sizeof *node->places));
    }
    node->places[node->count++] = place;
}

// A word of 2 to 41 letters; the square of a uniform number makes some words frequent.
static void make_word(char *word, uint64_t *state) {
    uint64_t random = worker_random(state) >> 32;
    uint64_t rank = (random * random >> 32) * (words / 2) >> 32;
    uint64_t letters = worker_random_seed(rank + 1);
    size_t length = 2 + worker_below(worker_random(&letters), rank % 10 == 0 ? 40 : 10);
    for (size_t i = 0; i < length; i++) {
        word[i] = (char)('a' + worker_below(worker_random(&letters), 26));
    }
    word[length] = '\0';
}

int main(int argc, char **argv) {
    const struct worker_option table[] = {
        {"passes", 1, 1u << 30, &passes},
        {"words", 2, 1u << 30, &words},
        {"seed", 0, UINT64_MAX, &seed},
        {NULL, 0, 0, NULL},
    };
    worker_options(argc, argv, table, "", 0);
    uint64_t state = worker_random_seed(seed);
    uint64_t sum = 0;
    for (uint64_t pass = 0; pass < passes; pass++) {
        for (uint64_t i = 0; i < words; i++) {
            char word[64];
            make_word(word, &state);
            add(word, (uint32_t)i);
        }
        for (uint64_t i = 0; i < bucket_count; i++) {
            for (struct node *node = buckets[i], *next; node != NULL; node = next) {
                next = node->next;
                sum += node->count + strlen(node->word);
                free(node->places);
                free(node->word);
                free(node);
            }
        }
        free(buckets);
        buckets = NULL;
        bucket_count = node_count = 0;
    }
    worker_report_allocator();
    printf("sum %lu\n", (unsigned long)sum);
    return 0;
}
