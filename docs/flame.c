// SPDX-License-Identifier: Apache-2.0
// A program for the flame graph in profile.md: makes texts, splits them, and counts their words.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FUNCTION __attribute__((noipa))

struct text {
    char *bytes;
    size_t length, room;
};

struct count {
    struct count *next;
    char *word;
    int times;
};

static struct count *table[1 << 12];

FUNCTION static void append(struct text *text, const char *word) {
    size_t length = strlen(word);
    if (text->length + length + 1 > text->room) {
        text->room = text->room * 2 + 64;
        text->bytes = realloc(text->bytes, text->room);
    }
    strcpy(text->bytes + text->length, word);
    text->length += length;
}

FUNCTION static struct text make_text(int nth) {
    struct text text = {NULL, 0, 0};
    for (int i = 0; i < 20000; i++) {
        char word[32];
        snprintf(word, sizeof word, "word-%d ", i * nth % 20011);
        append(&text, word);
    }
    return text;
}

FUNCTION static char *copy_word(const char *word) {
    return strdup(word);
}

FUNCTION static struct count *find_count(const char *word) {
    unsigned hash = 0;
    for (const char *at = word; *at != '\0'; at++) {
        hash = hash * 31 + (unsigned char)*at;
    }
    struct count **head = &table[hash % (sizeof table / sizeof *table)];
    for (struct count *count = *head; count != NULL; count = count->next) {
        if (strcmp(count->word, word) == 0) {
            return count;
        }
    }
    struct count *count = calloc(1, sizeof *count);
    *count = (struct count){*head, copy_word(word), 0};
    *head = count;
    return count;
}

FUNCTION static void count_words(struct text text) {
    for (char *word = strtok(text.bytes, " "); word != NULL; word = strtok(NULL, " ")) {
        char *own = copy_word(word);
        find_count(own)->times++;
        free(own);
    }
    free(text.bytes);
}

int main(void) {
    for (int i = 1; i <= 100; i++) {
        count_words(make_text(i));
    }
    return 0;
}
