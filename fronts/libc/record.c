// SPDX-License-Identifier: Apache-2.0
#include "fronts/libc/record.h"

#include "boxes/diagnostics/diagnostics.h"
#include "boxes/profile_file/profile_file.h"
#include "boxes/recorder/recorder.h"
#include "boxes/settings/settings.h"
#include "boxes/thread_heap/thread_heap.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static_assert((int)RECORDER_PATH_MOST >= (int)PROFILE_PATH_MOST, "names of files fit");

// The setting as an absolute path, because a program may change its directory.
static char pattern[PROFILE_PATH_MOST];

static bool set_pattern(const char *text) {
    size_t length = 0;
    if (text[0] != '/') {
        if (getcwd(pattern, sizeof pattern - 1) == NULL) {
            return false;
        }
        length = strlen(pattern);
        pattern[length++] = '/';
    }
    if (length + strlen(text) >= sizeof pattern) {
        return false;
    }
    strcpy(pattern + length, text);
    return true;
}

void record_start(const char *flavour) {
    const char *text = settings_text(SETTING_TEXT_RECORD);
    if (text[0] == '\0') {
        return;
    }
    int saved = errno;
    char path[PROFILE_PATH_MOST];
    if (!set_pattern(text) || !profile_file_name(pattern, 1, false, path) ||
        !recorder_start(path, program_invocation_short_name, flavour)) {
        diag_warn_setting("HAKMEM_RECORD", text, "no such file can be written");
    } else {
        thread_heap_close_sizes();
    }
    errno = saved;
}

void record_after_fork(void) {
    char path[PROFILE_PATH_MOST];
    if (recorder_is_on()) {
        bool named = profile_file_name(pattern, 1, true, path);
        recorder_after_fork(named ? path : "");
    }
}
