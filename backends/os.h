// SPDX-License-Identifier: Apache-2.0
// os: every call of the kernel that the allocator makes, behind one interface. backends/linux makes
// the calls; another backend may be linked in its place (one that fails on a script, for tests).
//
// Addresses and sizes are multiples of the page (4096 B) unless said otherwise. Every call is
// thread-safe and async-signal-safe, never allocates, and leaves errno as it was.
//
// Calls that take pages away (os_decommit, os_purge, os_refresh, os_move and os_release) are made
// through libc's functions: memory hooks of others, such as those that keep registrations of memory
// for RDMA, watch these, by patching them or by a definition of their own, and may allocate and
// free as they do so. A thread in such a call is said to be outside; see os_around_calls().
//
// A sandbox may stand against calls: refuse them with an errno of its choice, or kill. What is
// refused is done by another call, or left undone as if the kernel had no memory. What might be
// fatal is not tried; see os_start().
#ifndef HAKMEM_BACKENDS_OS_H
#define HAKMEM_BACKENDS_OS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum os_result {
    OS_OK = 0,
    OS_NO_MEMORY, // the kernel refused: limit, overcommit, or too many mappings
    OS_TAKEN,     // something else is mapped in that address range
    OS_LOST,      // a range that was mapped is so no more
};

// Reserves [at, at + size) without access rights and without commit charge. `at` NULL lets the
// kernel choose; the address is then left in *got (which may be NULL otherwise).
enum os_result os_reserve(void *at, size_t size, void **got);

// As os_reserve(), but the range is readable, writable and zero-filled. The kernel charges a page
// when it is touched, where its overcommit policy allows that.
enum os_result os_map(void *at, size_t size, void **got);

// As os_map() without an address, for calls before the library is relocated: uses no function of
// libc, no thread-local variable and no entry of the global offset table. NULL on failure.
void *os_map_early(size_t size);

// OS_OK if the kernel's overcommit policy would grant the process `size` more writable bytes, asked
// by a mapping that is gone again. All other calls ask for no commitment where the policy allows
// that, and would be granted more than the machine has.
enum os_result os_would_grant(size_t size);

// Gives a reserved range read and write rights. Pages that were never written are zero. Pages that
// have rights already keep their contents, so several threads may call for the same range. Returns
// OS_TAKEN in a sandbox that allows this only by os_commit_alone().
enum os_result os_commit(void *at, size_t size);

// As the call above, for a range that no other thread uses meanwhile. The contents are undefined
// afterwards.
enum os_result os_commit_alone(void *at, size_t size);

// False if os_commit would say OS_TAKEN, or is about to, as far as is known by now.
bool os_commits(void);

// Takes the right to write and the commit charge away again. The contents are lost: the range reads
// as zero. OS_NO_MEMORY: it is as it was; OS_LOST: it is not mapped any more.
enum os_result os_decommit(void *at, size_t size);

// Gives a mapped range read rights, and the rights to write and to execute as said. Contents stay.
enum os_result os_protect(void *at, size_t size, bool write, bool execute);

// Gives the physical pages of a committed range back; they read as zero afterwards.
// OS_NO_MEMORY if the kernel would not (the contents are then undefined but accessible). (A call
// for many ranges at once would take process_madvise(), which memory hooks do not watch, and
// sandboxes do not allow.)
enum os_result os_purge(void *at, size_t size);

// The bytes that a range must have at least for os_purge to do anything about it. More than a page
// only in a sandbox, where each range may cost the process two mappings, of which the kernel grants
// 65,530: then about an 8192th of what has been committed.
size_t os_least_purge(void);

// True if os_purge() leaves its range mapped throughout, so that other threads may read it
// meanwhile. False in a sandbox: there a new mapping replaces the old one, and the kernel may
// refuse the new one after the old one is gone.
bool os_purges_in_place(void);

// Replaces a committed range, whatever its mappings look like by now, by one fresh zero mapping.
// OS_NO_MEMORY: it is as it was; OS_LOST: it is not mapped any more, and could not be mapped again.
enum os_result os_refresh(void *at, size_t size);

// Moves the physical pages of [from, from + size) to [to, to + size) without copying. Both must be
// committed and must not overlap; `from` reads as zero afterwards. Fails on kernels before 5.7, and
// where the process's limits have no room for as much address space again; then `from` is as it
// was, and `to` is committed with undefined contents. OS_LOST: another thread took that room in
// between, and `to` is not mapped any more. In a sandbox that the process was started with, only
// ranges are moved that malloc of libc would move likewise (32 MiB and more), in one of its own
// none.
enum os_result os_move(void *from, void *to, size_t size);

// Returns a reserved or committed range to the kernel for good. (In a sandbox of the process's own
// the pages only; the addresses stay reserved.)
void os_release(void *at, size_t size);

// Unmaps a range that may hold ranges which are unmapped already. OS_NO_MEMORY: it is as it was,
// for the process has too many mappings, or is in a sandbox of its own.
enum os_result os_unmap(void *at, size_t size);

// Takes the rights to a range away, and its pages; it stays reserved. OS_NO_MEMORY: it is as it
// was.
enum os_result os_forbid(void *at, size_t size);

// Advises huge pages for a range (true) or takes that back (false). Best effort.
void os_huge_pages(void *at, size_t size, bool on);

// The limits on address space (RLIMIT_AS) and on data (RLIMIT_DATA: private mappings that can be
// written) in bytes, SIZE_MAX where there is none. (In a sandbox of the process's own: as they were
// when last asked for.)
size_t os_address_limit(void);
size_t os_data_limit(void);

// The mappings that the kernel granted a process (vm.max_map_count) when that was first asked for;
// the kernel's default where it is not to be found.
size_t os_most_mappings(void);

// Says which pages of a committed range of up to 2^20 bytes hold something: pages[i] is 0 for a
// page that was never touched, and reads as zero. False, and `pages` is undefined, where that
// cannot be told: where the machine has swap, for a page in it looks the same, and in a sandbox. (A
// page that userfaultfd is to fill when it is touched looks the same, too.)
bool os_touched(const void *at, size_t size, unsigned char *pages);

// Physical memory of the machine in bytes.
size_t os_physical_memory(void);

// 64 bits that differ from process start to process start. Not for secrets.
uint64_t os_random(void);

// 64 bits for secrets of the process; the same for the same number 0 or 1, and of one the other
// cannot be told. No system call.
uint64_t os_secret(unsigned number);

// Monotonic clock in milliseconds, a few ms coarse. No system call.
uint64_t os_now_ms(void);

// Monotonic clock in nanoseconds; as coarse as the above where the process may not read the
// time-stamp counter.
uint64_t os_now_ns(void);

// Reads at most `size` bytes of a (small, /proc or /sys) file; returns how many, 0 on any failure.
size_t os_read_file(const char *path, char *buf, size_t size);

// Keeps stderr as it is now for os_write_stderr(), at the cost of a descriptor: programs close
// theirs before they end. Called once at most.
void os_keep_stderr(void);

// Writes to stderr, whole if it can be; failures are ignored. If it was kept nothing is written to
// any other file: a program may have closed both descriptors, and opened its own under their
// numbers.
void os_write_stderr(const char *text, size_t size);

// A file to write: created, or emptied where it exists. Returns its descriptor, which a program
// that is executed does not get; -1 on any failure. os_write_file() is false if not all could be
// written.
int os_create_file(const char *path);
bool os_write_file(int file, const void *bytes, size_t size);
void os_close_file(int file);

// Renames a file, over another one if there is one of that name; false on any failure.
bool os_rename_file(const char *from, const char *to);

// Makes a part of an existing file zero, which lengthens it as need be, and maps that part to be
// written to: what is written is in the file whatever becomes of the process, and a child that is
// forked shares it. `offset` and `size` are multiples of the page. NULL if there is no room for it,
// on any other failure, and in a sandbox. To be given back by os_release().
void *os_map_part(const char *path, uint64_t offset, size_t size);

// Maps a whole file for reading; *size are its bytes. NULL on any failure, and for an empty one. To
// be given back by os_release(), its size rounded up to the page.
const void *os_map_file(const char *path, size_t *size);

// True if the page can be read, as far as that can be told by a system call that has no effect and
// no signal: not in a sandbox.
bool os_can_read(const void *page);

// The number of the process, 0 where a sandbox forbids to ask; and nanoseconds since 1970.
int os_process(void);
int os_thread(void); // likewise, of the thread
uint64_t os_wall_ns(void);

// The most memory that the process has had so far, in bytes; 0 in a sandbox.
size_t os_peak_memory(void);

// System calls made through this seam so far.
uint64_t os_calls(void);

// To be called once, before main(). Which calls may be made from then on: all of them (OS_FREE),
// mmap alone (OS_SANDBOXED), or what is found out about the process's seccomp filters, now and as
// it gives itself some (OS_FIND_OUT). Before that all are.
enum os_calls_allowed { OS_FREE, OS_SANDBOXED, OS_FIND_OUT };
void os_start(enum os_calls_allowed allowed);

// Sets what is called right before calls other than mmap are given up: by os_start(OS_SANDBOXED),
// or because the process is about to give itself a filter. All calls can still be made by `what`,
// which several threads may run at a time, in a signal handler too. os_commits() is false before it
// is called. NULL: nothing.
void os_before_sandbox(void (*what)(void));

// To be called in a forked child, whose mappings are not as free to merge as its parent's; and by a
// thread that is about to end.
void os_forked(void);
void os_thread_ends(void);

// True if the calling thread is outside: something of others' may be running on its stack that
// has been called from here. What takes pages away is refused meanwhile, but for os_release. False
// again for a thread that has left the call by a jump, after a second.
bool os_is_outside(void);

// Sets what is called before and after each call outside, on the thread that makes it; not `after`
// alone for a call that is under way. *what is to last.
struct os_around {
    void (*before)(void);
    void (*after)(void);
};
void os_around_calls(const struct os_around *what);

#ifdef __cplusplus
}
#endif

#endif
