/* LD_PRELOAD: clocks that a test moves. $SHIFTED_CLOCK is a file with two int64_t: by how many nanoseconds CLOCK_BOOTTIME and
 * CLOCK_MONOTONIC are ahead. It is mapped when a process starts, so a sandbox may hide it afterwards. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000

static const volatile int64_t *ahead_ns;

__attribute__((constructor)) static void map_file(void)
{
	const char *path = getenv("SHIFTED_CLOCK");
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	void *mapped = fd >= 0 ? mmap(NULL, 2 * sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;

	if (mapped != MAP_FAILED)
		ahead_ns = mapped;
	if (fd >= 0)
		close(fd);
}

int clock_gettime(clockid_t clock, struct timespec *ts)
{
	int rc = (int)syscall(SYS_clock_gettime, clock, ts);
	int64_t ns;

	if (rc || !ahead_ns || (clock != CLOCK_BOOTTIME && clock != CLOCK_MONOTONIC))
		return rc;
	ns = ts->tv_nsec + ahead_ns[clock == CLOCK_MONOTONIC];
	ts->tv_sec += ns / NS_PER_S;
	ts->tv_nsec = ns % NS_PER_S;
	return 0;
}
