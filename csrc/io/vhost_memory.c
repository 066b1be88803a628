/* How: the kernel answers an access behind the end of a file with SIGBUS. The handler puts fresh memory in the place of the whole
 * region, so the access succeeds, and notes that memory has gone. The link then drops the front end. The handler takes no lock
 * and makes system calls only.
 *
 * Invariant: the handler sees a mapping in the table from before its first use until after its last. Any other SIGBUS ends the
 * process as if there were no handler.
 *
 * Rejected: F_GET_SEALS, which says whether a file can shrink: not all front ends seal theirs. A check of the size before each
 * access: the file can shrink right after it.
 */
#include "io/vhost_memory.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"

#define MAPPINGS 64 /* of all planes in this process: the program has one */

static struct mapping {
	_Atomic uintptr_t begin; /* 0: free */
	size_t bytes;
} mappings[MAPPINGS];
static atomic_bool has_gone;
static size_t page_bytes;

static struct mapping *find(uintptr_t at)
{
	for (size_t i = 0; i < MAPPINGS; i++) {
		uintptr_t begin = atomic_load(&mappings[i].begin);

		if (begin == at || (begin && at > begin && at - begin < mappings[i].bytes))
			return &mappings[i];
	}
	return NULL;
}

static bool replace(uintptr_t begin, size_t bytes)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;

	return mmap((void *)begin, bytes, PROT_READ | PROT_WRITE, flags, -1, 0) != MAP_FAILED;
}

/* Where there is no room for a whole region (vm.overcommit_memory), a page will do; the others follow one by one. */
static void on_fault(int number, siginfo_t *info, void *context)
{
	uintptr_t at = (uintptr_t)info->si_addr;
	struct mapping *mapping = at ? find(at) : NULL;
	int error = errno;

	(void)context;
	if (mapping && (replace(mapping->begin, mapping->bytes) || replace(at & ~(uintptr_t)(page_bytes - 1), page_bytes))) {
		atomic_store(&has_gone, true);
		errno = error;
		return;
	}
	signal(number, SIG_DFL); /* the access is repeated, and ends the process */
}

int vhost_memory_survive(void)
{
	struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};

	page_bytes = (size_t)sysconf(_SC_PAGESIZE);
	return sigaction(SIGBUS, &action, NULL) ? -errno : 0;
}

bool vhost_memory_has_gone(void)
{
	return UNLIKELY(atomic_load_explicit(&has_gone, memory_order_relaxed)) && atomic_exchange(&has_gone, false);
}

int vhost_memory_map(struct guest_memory *m, int fd, uint64_t guest, uint64_t front_end, uint64_t bytes, uint64_t offset)
{
	struct guest_region region = {.guest = guest, .front_end = front_end, .bytes = bytes};
	struct mapping *mapping = find(0);
	uint8_t *at;

	if (!bytes || offset > SIZE_MAX / 2 || bytes > SIZE_MAX / 2 || !mapping)
		return -EINVAL;
	/* From the begin of the file on, because an offset need not be that of a page. */
	at = mmap(NULL, offset + bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (at == MAP_FAILED)
		return -errno;
	region.at = at + offset;
	if (!guest_memory_add(m, &region)) {
		munmap(at, offset + bytes);
		return -EINVAL;
	}
	mapping->bytes = offset + bytes;
	atomic_store(&mapping->begin, (uintptr_t)at);
	return 0;
}

void vhost_memory_unmap(struct guest_memory *m)
{
	for (uint32_t i = 0; i < m->count; i++) {
		struct mapping *mapping = find((uintptr_t)m->region[i].at);
		uintptr_t begin = mapping ? atomic_exchange(&mapping->begin, 0) : 0;

		if (begin)
			munmap((void *)begin, mapping->bytes);
	}
	m->count = 0;
}
