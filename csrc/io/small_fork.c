/* Purpose: fork a process that stays in C, out of an interpreter.
 *
 * How: a fork shares its memory with the process that it comes from. To copy the tables of all that costs 0.4 ms, each page that the
 * interpreter writes to afterwards is copied, and the fork is left with about 2 MB of old copies. So the kernel is told to leave out of
 * the fork (madvise(2), MADV_DONTFORK) all but what C needs: a few libraries, which dl_iterate_phdr(3) lists, the stack, what is around
 * the thread pointer, and the kernel's own pages.
 *
 * Rejected: a fork of all that gives its memory back afterwards: it takes 0.7 ms more, and the interpreter copies pages all the same.
 * A program of its own, started by exec: the package would need a native program beside its extensions, a start takes 0.5 ms more, and
 * the dynamic linker's private pages take as much memory as what stays here.
 */
#include "io/small_fork.h"

#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bytes.h"

#define KEPT_MAX 8
/* On both sides of the thread pointer: the C library's record of the thread, and its variables. */
#define NEAR_BYTES ((uintptr_t)32 << 10)
/* Below this frame: no other mapping is that near to the stack, so the stack stays whole. */
#define STACK_BYTES ((uintptr_t)16 << 20)
/* On both sides of the vDSO: its data, which madvise(2) refuses to touch. */
#define VDSO_BYTES ((uintptr_t)256 << 10)
#define CLOSE_RANGE 436  /* the same on all architectures; some headers are older */
#define OPEN_BEFORE 1024 /* the worker has a handful of descriptors yet */

struct range {
	uintptr_t from, to;
};

/* In rising order. */
struct kept {
	struct range ranges[KEPT_MAX];
	size_t count;
	bool linker, full;
};

static void keep(struct kept *k, uintptr_t from, uintptr_t to)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	size_t at = k->count;

	k->full |= at == KEPT_MAX;
	if (k->full)
		return;
	for (; at && k->ranges[at - 1].from > from; at--)
		k->ranges[at] = k->ranges[at - 1];
	k->ranges[at] = (struct range){from & ~(page - 1), (to + page - 1) & ~(page - 1)};
	k->count++;
}

static int keep_object(struct dl_phdr_info *object, size_t size, void *context)
{
	const uintptr_t c_library = (uintptr_t)__errno_location, ours = (uintptr_t)small_fork;
	/* Older C libraries have some calls in libpthread, too. */
	bool kept = object->dlpi_name && strstr(object->dlpi_name, "/libpthread");
	bool linker = object->dlpi_addr && object->dlpi_addr == getauxval(AT_BASE);
	uintptr_t first = UINTPTR_MAX, last = 0;
	struct kept *k = context;

	(void)size;
	for (size_t i = 0; i < object->dlpi_phnum; i++) {
		const ElfW(Phdr) *part = &object->dlpi_phdr[i];
		uintptr_t from = object->dlpi_addr + part->p_vaddr, to = from + part->p_memsz;

		if (part->p_type != PT_LOAD)
			continue;
		kept |= (c_library >= from && c_library < to) || (ours >= from && ours < to);
		first = from < first ? from : first;
		last = to > last ? to : last;
	}
	k->linker |= linker;
	if (kept || linker)
		keep(k, first, last);
	return 0;
}

/* What the child needs; false: all. */
static bool find(struct kept *k)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	(void)keep_object;
	(void)k;
	return false;
#else
	uintptr_t vdso = getauxval(AT_SYSINFO_EHDR);

	/* Such a library may have put functions of its own in the place of those that are called, and needs we do not know what. */
	if (getenv("LD_PRELOAD") || access("/etc/ld.so.preload", F_OK) == 0)
		return false;
	dl_iterate_phdr(keep_object, k);
	keep(k, (uintptr_t)&errno - NEAR_BYTES, (uintptr_t)&errno + NEAR_BYTES);
	if (vdso)
		keep(k, vdso - VDSO_BYTES, vdso + VDSO_BYTES);
	keep(k, (uintptr_t)&vdso - STACK_BYTES, UINTPTR_MAX / 2);
	return k->linker && !k->full;
#endif
}

/* Gives advice about all memory but the kept ranges. 0 or -errno. */
static int advise(const struct kept *k, int advice)
{
	uintptr_t from = (uintptr_t)sysconf(_SC_PAGESIZE);

	for (size_t i = 0; i < k->count; i++) {
		const struct range *r = &k->ranges[i];
		int rc = 0;

		do
			rc = r->from > from ? madvise((void *)from, r->from - from, advice) : 0;
		while (rc && errno == EAGAIN);
		if (rc && errno != ENOMEM) /* that says that not all of it is mapped */
			return -errno;
		from = r->to > from ? r->to : from;
	}
	return 0;
}

pid_t plain_fork(void)
{
	return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}

static void settle(int null, int sock)
{
	struct sigaction interrupt;

	/* An interpreter that started as a program has a handler, in memory that is not here. */
	if (sigaction(SIGINT, NULL, &interrupt) == 0 && interrupt.sa_handler != SIG_IGN)
		(void)signal(SIGINT, SIG_DFL);
	for (int stream = 0; stream < SMALL_FORK_SOCKET; stream++)
		(void)dup2(null, stream);
	if (sock != SMALL_FORK_SOCKET)
		(void)dup3(sock, SMALL_FORK_SOCKET, O_CLOEXEC);
	if (syscall(CLOSE_RANGE, SMALL_FORK_SOCKET + 1, UINT32_MAX, 0)) /* before Linux 5.9 */
		for (int fd = SMALL_FORK_SOCKET + 1; fd < OPEN_BEFORE; fd++)
			close(fd);
}

int small_fork(int null, int ours)
{
	struct kept k = {0};
	int pair[2], rc = 0;
	pid_t child;
	bool small;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return -errno;
	small = find(&k);
	if (small)
		(void)advise(&k, MADV_DONTFORK);
	child = plain_fork();
	if (child == 0) {
		settle(null, pair[1]);
		return 1;
	}
	if (child < 0)
		rc = -errno;
	if (small && advise(&k, MADV_DOFORK) < 0)
		rc = -EINVAL;
	close(pair[1]);
	if (pair[0] != ours && !rc && dup3(pair[0], ours, O_CLOEXEC) < 0)
		rc = -errno;
	if (pair[0] != ours)
		close(pair[0]);
	return rc;
}
