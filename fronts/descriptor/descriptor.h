// SPDX-License-Identifier: Apache-2.0
// descriptor: where the allocator's state is, for readers outside of the process.
//
// tools/hakmem and debuggers read a live process or a core file, with no help from it. They find
// the descriptor by the symbol `hakmem_descriptor`, or, where symbols are stripped, by an ELF note
// of the owner "hakmem" and the type DESCRIPTOR_NOTE, whose content is the 8-byte distance from
// where it stands to the descriptor. All else follows from the rows (see boxes/base/layout.h).
// Nothing in the allocator reads it: it costs a few KiB of read-only data.
#ifndef HAKMEM_FRONTS_DESCRIPTOR_DESCRIPTOR_H
#define HAKMEM_FRONTS_DESCRIPTOR_DESCRIPTOR_H

#include "boxes/base/layout.h"

HAK_C_BEGIN

enum {
    DESCRIPTOR_VERSION = 1, // of what rows mean; a reader refuses one that it does not know
    DESCRIPTOR_NOTE = 1,
    DESCRIPTOR_LAYOUTS = 16,
};
#define DESCRIPTOR_MAGIC "hakmem\r\n"

struct hakmem_descriptor {
    char magic[8];       // DESCRIPTOR_MAGIC without its 0
    uint32_t version;    // DESCRIPTOR_VERSION
    uint32_t bytes;      // of this structure
    uint32_t row_bytes;  // sizeof(struct hak_layout_row)
    uint32_t layouts;    // how many there are
    const char *flavour; // as hak_flavour() has it
    const struct hak_layout *layout[DESCRIPTOR_LAYOUTS];
};
static_assert(offsetof(struct hakmem_descriptor, version) == 8, "as readers outside expect it");
static_assert(offsetof(struct hakmem_descriptor, flavour) == 24, "likewise");
static_assert(offsetof(struct hakmem_descriptor, layout) == 32, "likewise");

// To be called by the library that serves the process: another library of hakmem may be behind it.
void descriptor_serves(void);
HAK_C_END

#endif
