// SPDX-License-Identifier: Apache-2.0
// os: every system call of the allocator, behind one interface. backends/linux makes the calls.
// Another backend may be linked instead, such as one that fails on a script, for tests.
//
// Addresses and sizes are multiples of the page (4096 B) unless said otherwise. Every call is
// thread-safe and async-signal-safe, never allocates, and leaves errno as it was.
//
// Calls that take pages away (os_decommit, os_purge, os_refresh, os_move and os_release) are made
// through libc's functions. Memory hooks of other libraries, such as those that keep registrations
// of memory for RDMA, watch these functions by patching or replacing them, and may allocate and
// free meanwhile. A thread in such a call is said to be outside; see os_around_calls().
//
// A sandbox may forbid calls: with an errno of its choice, or by killing the process. If a call is
// refused, another call does the same, or nothing is done, as if the kernel had no memory. Calls
// that may be fatal are not tried; see os_start().
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
    OS_LOST,      // a range that was mapped is not mapped any more
};

// Reserves [at, at + size) without access rights and without commit charge. If `at` is NULL, the
// kernel chooses the address, and *got is set to it; otherwise `got` may be NULL.
enum os_result os_reserve(void *at, size_t size, void **got);

// As os_reserve(), but the range is readable, writable and zero-filled. If the kernel's overcommit
// policy allows that, a page is charged only when it is touched.
enum os_result os_map(void *at, size_t size, void **got);

// As os_map() without an address, for calls before the library is relocated: uses no function of
// libc, no thread-local variable and no entry of the global offset table. Returns NULL on failure.
void *os_map_early(size_t size);

// Returns OS_OK if the kernel's overcommit policy would grant the process `size` more writable
// bytes. Asks by a mapping that is removed again. (The other calls reserve no commitment if the
// policy allows that, and so may be granted more than the machine has.)
enum os_result os_would_grant(size_t size);

// Gives a reserved range read and write rights. Pages that were never written are zero. Pages that
// have rights already keep their contents, so several threads may call for the same range. Returns
// OS_TAKEN in a sandbox that allows this only by os_commit_alone().
enum os_result os_commit(void *at, size_t size);

// As os_commit(), for a range that no other thread uses meanwhile. The contents are undefined
// afterwards.
enum os_result os_commit_alone(void *at, size_t size);

// Returns false if os_commit() would return OS_TAKEN, or is about to, as far as is known by now.
bool os_commits(void);

// Takes the right to write and the commit charge away again. The contents are lost: the range reads
// as zero. OS_NO_MEMORY: the range is as it was. OS_LOST: the range is not mapped any more.
enum os_result os_decommit(void *at, size_t size);

// Gives a mapped range read rights, and if `write` or `execute` these rights. The contents stay.
enum os_result os_protect(void *at, size_t size, bool write, bool execute);

// Gives the physical pages of a committed range back; they read as zero afterwards. OS_NO_MEMORY:
// the kernel refused, and the contents are undefined but accessible. (A call for many ranges at
// once would take process_madvise(), which memory hooks do not watch, and sandboxes do not allow.)
enum os_result os_purge(void *at, size_t size);

// Returns the least bytes of a range that os_purge() acts on. More than a page only in a sandbox,
// where each purged range may cost the process two of its 65,530 mappings: then about an 8192th of
// what has been committed.
size_t os_least_purge(void);

// Returns true if os_purge() leaves its range mapped throughout, so that other threads may read the
// range meanwhile. Returns false in a sandbox: there a new mapping replaces the old one, and the
// kernel may refuse the new one after the old one is gone.
bool os_purges_in_place(void);

// Replaces a committed range, whatever mappings it consists of, by one fresh mapping that is zero.
// OS_NO_MEMORY: the range is as it was. OS_LOST: the range is not mapped any more, and could not be
// mapped again.
enum os_result os_refresh(void *at, size_t size);

// Moves the physical pages of [from, from + size) to [to, to + size) without copying. Both ranges
// must be committed and must not overlap; `from` reads as zero afterwards. OS_NO_MEMORY on kernels
// before 5.7, and if a limit of the process has no room for `size` more bytes of address space:
// then `from` is as it was, and `to` is committed with undefined contents. OS_LOST: another thread
// took that room in between, and `to` is not mapped any more. In an inherited sandbox only ranges
// are moved that libc's malloc would move too (32 MiB and more), in a sandbox of the process's own
// none.
enum os_result os_move(void *from, void *to, size_t size);

// Returns a reserved or committed range to the kernel for good. (In a sandbox of the process's own
// only the pages go back; the addresses stay reserved.)
void os_release(void *at, size_t size);

// Unmaps a range, parts of which may be unmapped already. OS_NO_MEMORY: the range is as it was,
// because the process has too many mappings or is in a sandbox of its own.
enum os_result os_unmap(void *at, size_t size);

// Takes the access rights to a committed range away, and its pages; the range stays reserved.
// OS_NO_MEMORY: the range has its rights; what it had is kept, or it reads as zero.
enum os_result os_forbid(void *at, size_t size);

// Takes the rights to a committed range away; its pages stay, and os_commit() gives the rights
// back. OS_NO_MEMORY: some of the range may have no rights; in a sandbox the range is as it was.
enum os_result os_hide(void *at, size_t size);

// Advises huge pages for a range, or, if `on` is false, takes the advice back. Best effort.
void os_huge_pages(void *at, size_t size, bool on);

// Leaves a range out of core files, or, if `on` is true, no longer leaves it out. Best effort.
void os_dump(void *at, size_t size, bool on);

// Return the limits on address space (RLIMIT_AS) and on data (RLIMIT_DATA: private mappings that
// can be written) in bytes, SIZE_MAX if there is none. (In a sandbox of the process's own: as they
// were when last asked for.)
size_t os_address_limit(void);
size_t os_data_limit(void);

// Returns on how many processors the calling thread may run; UINT_MAX if there are more than a
// thousand, and in a sandbox, where the kernel is not asked.
unsigned os_processors(void);

// Returns how many mappings the kernel granted a process (vm.max_map_count) when this was first
// called; the kernel's default if that is not known.
size_t os_most_mappings(void);

// Finds the pages of a committed range of up to 2^20 bytes that have content: sets pages[i] to 0
// for a page that was never touched and reads as zero, and to another value for any other page.
// Returns false, with `pages` undefined, on a machine with swap, because a page in swap looks like
// one that was never touched, and in a sandbox. (A page that userfaultfd is to fill when it is
// touched looks like one that was never touched, too.)
bool os_touched(const void *at, size_t size, unsigned char *pages);

// Sets pages[i] to an odd value for each page of a committed range, of up to 2^20 bytes, that is in
// memory, and to an even value for any other page, also for one in swap: a third of the system
// calls of os_touched(), for estimates. Returns false, with `pages` undefined, in a sandbox.
bool os_in_memory(const void *at, size_t size, unsigned char *pages);

// Returns true if a page of a mapped range is not in memory. Returns false in a sandbox. (If a page
// that was never touched is not in memory, the kernel does not lock the range in memory.)
bool os_is_absent(const void *page);

// Returns the machine's physical memory in bytes.
size_t os_physical_memory(void);

// Returns 64 bits that differ from process start to process start. Not for secrets.
uint64_t os_random(void);

// Returns 64 bits for secrets of the process. `number` is 0 or 1; each has a value of its own,
// which is the same at each call. One of the two values does not disclose the other. No system
// call.
uint64_t os_secret(unsigned number);

// Returns a monotonic clock in milliseconds, a few ms coarse. No system call.
uint64_t os_now_ms(void);

// Returns a monotonic clock in nanoseconds. If the process may not read the time-stamp counter, the
// clock is as coarse as os_now_ms().
uint64_t os_now_ns(void);

// Reads at most `size` bytes of a small file, such as one of /proc or /sys. Returns how many bytes
// were read; 0 on any failure.
size_t os_read_file(const char *path, char *buf, size_t size);

// Keeps stderr as it is now for os_write_stderr(), at the cost of a descriptor, because programs
// close stderr before they end. To be called once at most.
void os_keep_stderr(void);

// Writes to stderr, whole if possible; ignores failures. If stderr was kept, writes to no other
// file: a program may have closed both descriptors, and opened its own files under their numbers.
void os_write_stderr(const char *text, size_t size);

// os_create_file() creates a file to write, or empties an existing one. Returns its descriptor,
// which an executed program does not inherit, or -1 on any failure. os_write_file() returns false
// if not all bytes could be written.
int os_create_file(const char *path);
bool os_write_file(int file, const void *bytes, size_t size);
void os_close_file(int file);

// Renames a file, replacing a file of the new name. Returns false on any failure.
bool os_rename_file(const char *from, const char *to);

// Makes a part of an existing file zero, lengthening the file as needed, and maps that part for
// writing. Bytes written to the mapping are in the file even if the process is killed, and are
// shared with a forked child. `offset` and `size` are multiples of the page. Returns NULL if there
// is no room, on any other failure, and in a sandbox. To be given back by os_release().
void *os_map_part(const char *path, uint64_t offset, size_t size);

// Maps a whole file for reading, and sets *size to its bytes. Returns NULL on any failure, and for
// an empty file. To be given back by os_release(), with the size rounded up to the page.
const void *os_map_file(const char *path, size_t *size);

// Returns true if a system call, without effect and without a signal, shows that the page can be
// read. Returns false in a sandbox.
bool os_can_read(const void *page);

// Return the kernel's number of the process and of the calling thread; 0 if a sandbox forbids to
// ask.
int os_process(void);
int os_thread(void);

// Returns the time in nanoseconds since 1970.
uint64_t os_wall_ns(void);

// Returns the most memory that the process has had so far, in bytes; 0 in a sandbox.
size_t os_peak_memory(void);

// Returns the number of system calls made through this interface so far.
uint64_t os_calls(void);

// To be called once, before main(). Says which calls may be made from then on: all of them
// (OS_FREE), mmap alone (OS_SANDBOXED), or those that the process's seccomp filters seem to allow,
// now and as the process installs more (OS_FIND_OUT). Until then all calls may be made.
enum os_calls_allowed { OS_FREE, OS_SANDBOXED, OS_FIND_OUT };
void os_start(enum os_calls_allowed allowed);

// Sets the function that is called right before calls other than mmap are given up: by
// os_start(OS_SANDBOXED), or because the process is about to install a filter. The function can
// still make all calls; several threads may run it at a time, in a signal handler too. os_commits()
// is false before the function is called. NULL: none.
void os_before_sandbox(void (*what)(void));

// os_forked() is to be called in a forked child, whose mappings do not merge as freely as its
// parent's. os_thread_ends() is to be called by a thread that is about to end.
void os_forked(void);
void os_thread_ends(void);

// Returns true if the calling thread is outside: a call that was made here may be running code of
// others on the thread's stack. Calls that take pages away are refused meanwhile, except
// os_release(). A thread that has left the call by a jump is outside for one more second.
bool os_is_outside(void);

// Sets the functions that are called before and after each call outside, on the thread that makes
// the call. For a call that is under way, `after` is not called without `before`. *what must stay
// valid.
struct os_around {
    void (*before)(void);
    void (*after)(void);
};
void os_around_calls(const struct os_around *what);

#ifdef __cplusplus
}
#endif

#endif
