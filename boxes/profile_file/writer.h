// SPDX-License-Identifier: Apache-2.0
// writer: shared by the writers of the two formats. Part of the box.
#ifndef HAKMEM_BOXES_PROFILE_FILE_WRITER_H
#define HAKMEM_BOXES_PROFILE_FILE_WRITER_H

#include "boxes/elf_symbols/elf_symbols.h"
#include "boxes/heap_profile/heap_profile.h"
#include "boxes/profile_file/output.h"

HAK_C_BEGIN

// The state of a writer. It lies in a mapping of its own: a thread's stack may be small.
struct profile_writer {
    struct output out;
    struct message message, list;
    struct elf_symbols symbols;
    struct elf_name *names; // the addresses of all calls, sorted, each once
    size_t count, room;     // names in use, and names that there is room for
    uint64_t strings;       // written so far
    uint64_t functions;
    bool full; // an address found no room
};

// Adds the addresses of a stack to the names of the writer `to`.
void profile_collect(void *to, struct heap_profile_stack *stack);

// Sorts the names, and drops duplicates. To be called once all names are collected.
void profile_settle(struct profile_writer *w);

// Returns an address within the call that returns to `pc`.
uintptr_t profile_call_at(uintptr_t pc);

// Returns the index of an address among the names, or `count` if it is not there: a stack may be
// newer than the names.
size_t profile_place_of(const struct profile_writer *w, uintptr_t pc);

// Returns how many calls at the start of a stack are the allocator's own. There are some in a
// program that the library is linked into; stacks in a shared object start behind them.
unsigned profile_own_calls(const struct profile_writer *w, const struct heap_profile_stack *stack);

// The sums of a stack: of all allocations, and of those that are live.
struct profile_values {
    uint64_t allocated_objects, allocated_bytes, live_objects, live_bytes;
};
struct profile_values profile_values_of(struct heap_profile_stack *stack);

// Writes the whole profile in pprof's format.
void profile_write_proto(struct profile_writer *w);

// Write one stack as a line of text, with the bytes that live, or that were allocated. `to` is the
// writer.
void profile_put_folded_live(void *to, struct heap_profile_stack *stack);
void profile_put_folded_allocated(void *to, struct heap_profile_stack *stack);
HAK_C_END

#endif
