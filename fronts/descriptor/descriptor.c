// SPDX-License-Identifier: Apache-2.0
#include "fronts/descriptor/descriptor.h"

#include "backends/os.h"
#include "boxes/decay/decay.h"
#include "boxes/early_block/early_block.h"
#include "boxes/far_block/far_block.h"
#include "boxes/guarded_block/guarded_block.h"
#include "boxes/heap_profile/heap_profile.h"
#include "boxes/large_block/large_block.h"
#include "boxes/page_arena/page_arena.h"
#include "boxes/private_heap/private_heap.h"
#include "boxes/run_cache/run_cache.h"
#include "boxes/sampled_block/sampled_block.h"
#include "boxes/settings/settings.h"
#include "boxes/size_class/size_class.h"
#include "boxes/superslab/superslab.h"
#include "boxes/thread_heap/thread_heap.h"
#include "fronts/tiny_front/tiny_front.h"
#include "hakmem/hakmem.h"

static struct {
    bool serves;
    int64_t started; // seconds since 1970, UTC
} process;

static const char version[] = HAKMEM_VERSION;

void descriptor_serves(void) {
    HAK_POKE(&process.serves, true);
    HAK_POKE(&process.started, (int64_t)(os_wall_ns() / 1000000000));
}

HAK_LAYOUT(descriptor_layout,
           HAK_ROWS(HAK_VARIABLE("process.serves", process.serves),
                    HAK_VARIABLE("process.started", process.started),
                    HAK_VARIABLE("version", version)),
           HAK_ROWS());

extern const struct hakmem_descriptor hak_descriptor_own;
const struct hakmem_descriptor hak_descriptor_own = {
    .magic = {'h', 'a', 'k', 'm', 'e', 'm', '\r', '\n'},
    .version = DESCRIPTOR_VERSION,
    .bytes = sizeof(struct hakmem_descriptor),
    .row_bytes = sizeof(struct hak_layout_row),
    .layouts = DESCRIPTOR_LAYOUTS,
    .flavour = tiny_front_flavour,
    .layout =
        {
            &descriptor_layout,
            &page_arena_layout,
            &superslab_layout,
            &size_class_layout,
            &thread_heap_layout,
            &far_block_layout,
            &run_cache_layout,
            &private_heap_layout,
            &early_block_layout,
            &decay_layout,
            &settings_layout,
            &tiny_front_layout,
            &heap_profile_layout,
            &guarded_block_layout,
            &sampled_block_layout,
            &large_block_layout,
        },
};

// The same descriptor under the name that debuggers look up. Another library may define that name
// too.
extern const struct hakmem_descriptor hakmem_descriptor
    __attribute__((alias("hak_descriptor_own"), visibility("default")));

// The note. It is read from the file or from memory, and needs no relocation.
__asm__(".pushsection .note.hakmem, \"a\", @note\n"
        ".balign 4\n"
        ".long 7, 8, 1\n" // bytes of the owner's name, and of the content; DESCRIPTOR_NOTE
        ".asciz \"hakmem\"\n"
        ".balign 4\n"
        ".quad hak_descriptor_own - .\n"
        ".popsection\n");
static_assert(DESCRIPTOR_NOTE == 1, "as the note has it");
