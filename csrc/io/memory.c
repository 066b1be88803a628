/* Purpose: give back the memory of an interpreter that a process does not need any more.
 *
 * How: a fork shares its memory with the process that it comes from. As that one goes on and writes to it, the fork is left with the
 * old copies, about 2 MB of Python's. So it tells the kernel to drop each writable mapping (/proc/self/maps, madvise(2)), but for what
 * C needs: the data of a few libraries, which dl_iterate_phdr(3) lists, the stack, and what is around the thread pointer.
 *
 * Rejected: a program of its own, started by exec. The package would need a native program beside its extensions, a start takes 0.5 ms
 * more, and the dynamic linker's private pages take as much memory as what stays here.
 */
#include "io/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"

#define KEPT_MAX 32
/* Of the stack below this frame, and on both sides of the thread pointer: the C library's record of the thread, and its variables. */
#define NEAR_BYTES ((uintptr_t)32 << 10)
#define MAPS_BYTES 4096

struct range {
	uintptr_t from, to;
};

struct kept {
	struct range ranges[KEPT_MAX];
	size_t count;
	bool foreign; /* one of our calls leads to a library that may need more than we keep */
};

static void keep(struct kept *k, uintptr_t from, uintptr_t to)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);

	if (k->count == KEPT_MAX) {
		k->foreign = true;
		return;
	}
	k->ranges[k->count++] = (struct range){from & ~(page - 1), (to + page - 1) & ~(page - 1)};
}

static bool contains(const struct dl_phdr_info *object, uintptr_t address)
{
	for (size_t i = 0; i < object->dlpi_phnum; i++) {
		const ElfW(Phdr) *part = &object->dlpi_phdr[i];

		if (part->p_type == PT_LOAD && address - (object->dlpi_addr + part->p_vaddr) < part->p_memsz)
			return true;
	}
	return false;
}

static int keep_object(struct dl_phdr_info *object, size_t size, void *context)
{
	struct kept *k = context;
	/* What the loops call. A library that is loaded before all others may have put functions of its own in their place. */
	const uintptr_t calls[] = {(uintptr_t)poll,    (uintptr_t)recvmsg, (uintptr_t)recvfrom, (uintptr_t)read,
				   (uintptr_t)sendmsg, (uintptr_t)execve,  (uintptr_t)waitpid,  (uintptr_t)syscall};
	bool c_library = contains(object, (uintptr_t)__errno_location), ours = contains(object, (uintptr_t)memory_release);
	bool linker = object->dlpi_addr && object->dlpi_addr == getauxval(AT_BASE), called = false;

	(void)size;
	for (size_t i = 0; i < ARRAY_LEN(calls); i++)
		called |= contains(object, calls[i]);
	/* Older C libraries have some calls in libpthread, too. */
	if (called && !c_library && !ours && !strstr(object->dlpi_name, "/libpthread"))
		k->foreign = true;
	for (size_t i = 0; (c_library || ours || linker || called) && i < object->dlpi_phnum; i++) {
		const ElfW(Phdr) *part = &object->dlpi_phdr[i];
		uintptr_t from = object->dlpi_addr + part->p_vaddr;

		if (part->p_type == PT_LOAD && part->p_flags & PF_W)
			keep(k, from, from + part->p_memsz);
	}
	return 0;
}

/* Drops what the kept ranges leave of a mapping. */
static void drop(const struct kept *k, uintptr_t from, uintptr_t to)
{
	while (from < to) {
		uintptr_t end = to, next = to;

		for (size_t i = 0; i < k->count; i++) {
			const struct range *r = &k->ranges[i];

			if (r->to <= from || r->from >= end)
				continue;
			end = r->from > from ? r->from : from;
			next = r->to;
		}
		if (end > from)
			(void)madvise((void *)from, end - from, MADV_DONTNEED);
		from = next;
	}
}

/* One line: "7f0000000000-7f0000001000 rw-p 00000000 00:00 0   name" (proc_pid_maps(5)). */
struct line {
	uintptr_t from, to;
	char permissions[4];
	uint8_t field, at;
};

static void take(struct line *line, char c)
{
	uintptr_t digit = (uintptr_t)(c <= '9' ? c - '0' : c - 'a' + 10);

	if (line->field == 0 && c != '-')
		line->from = line->from << 4 | digit;
	else if (line->field == 1 && c != ' ')
		line->to = line->to << 4 | digit;
	else if (line->field == 2 && line->at < sizeof(line->permissions))
		line->permissions[line->at++] = c;
	else if (line->field < 3)
		line->field++;
}

static void drop_all(const struct kept *k, int maps)
{
	char text[MAPS_BYTES];
	struct line line = {0};
	ssize_t n;

	while ((n = read(maps, text, sizeof(text))) > 0) {
		for (ssize_t i = 0; i < n; i++) {
			if (text[i] != '\n') {
				take(&line, text[i]);
				continue;
			}
			if (line.permissions[1] == 'w' && line.permissions[3] == 'p')
				drop(k, line.from, line.to);
			line = (struct line){0};
		}
	}
}

void memory_release(void)
{
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	struct kept k = {0};
	int maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);

	if (maps < 0)
		return;
	dl_iterate_phdr(keep_object, &k);
	keep(&k, (uintptr_t)&errno - NEAR_BYTES, (uintptr_t)&errno + NEAR_BYTES);
	/* The caller's frames are above this one. Nothing above them is read again, but it is little. */
	keep(&k, (uintptr_t)&k - NEAR_BYTES, UINTPTR_MAX / 2);
	if (!k.foreign)
		drop_all(&k, maps);
	close(maps);
#endif
}
