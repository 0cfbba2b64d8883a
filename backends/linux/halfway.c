// SPDX-License-Identifier: Apache-2.0
// halfway: undoes a move that the kernel refused in the middle. From 6.17 on the kernel moves a
// source of several mappings, one mapping after the other. If a process has few mappings left, the
// first ones may be moved and the next one refused.
#include "backends/linux/sandbox.h"
#include "backends/linux/system_call.h"
#include "backends/os.h"
#include "boxes/base/base.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>

enum os_result os_linux_move_back(char *from, char *to, size_t size) {
    for (size_t at = 0; at < size; at += HAK_PAGE) {
        unsigned char in_memory;
        if (sys3(SYS_mincore, (long)(to + at), HAK_PAGE, (long)&in_memory) == -ENOMEM) {
            // The place of a mapping whose move was refused is not mapped any more.
            if (os_map(to + at, HAK_PAGE, NULL) != OS_OK) {
                return OS_LOST;
            }
        } else if (!hak_is_zero_page(to + at)) {
            memcpy(from + at, to + at, HAK_PAGE);
        }
    }
    return OS_NO_MEMORY;
}
