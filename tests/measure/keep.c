/* Keeps gcov's counters of a process that cannot open a file when it ends: the worker, in an empty root, leaves by _exit.
 *
 * Part of the extension in coverage builds only (PASTA_COVERAGE is the directory), and of separate builds of parts of it
 * (PASTA_COVERAGE_OF_PARTS, see tests/csrc/counted.py). A file there is mapped when the module is loaded, before the sandbox;
 * the counters are written into the mapping when a plane is freed and at exit, without any system call. Rejected: leaving the
 * sandbox off, which would measure another program than the one that ships.
 * Records in the file: name length, name, data length, data; a length of 0 ends them. See report.py.
 */
#include <gcov.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef PASTA_COVERAGE_OF_PARTS
#include "plane_api.h"
#endif

#define SPACE_BYTES (8u << 20)

/* -fprofile-info-section=gcov_info: the linker names the ends of a section whose name is an identifier. */
extern const struct gcov_info *const __start_gcov_info[] __attribute__((visibility("hidden")));
extern const struct gcov_info *const __stop_gcov_info[] __attribute__((visibility("hidden")));

static uint8_t *space;
static size_t used;
static size_t length_at;

static void put(const void *data, unsigned length, void *unused)
{
	(void)unused;
	if (used + length + 8 > SPACE_BYTES)
		abort();
	memcpy(space + used, data, length);
	used += length;
}

static void begin(const char *name, void *unused)
{
	uint32_t length = (uint32_t)strlen(name);

	put(&length, sizeof(length), unused);
	put(name, length, unused);
	length_at = used;
	used += sizeof(uint32_t);
}

static void *allocate(unsigned length, void *unused)
{
	(void)unused;
	return malloc(length);
}

static void keep(void)
{
	if (!space)
		return;
	used = 0;
	for (const struct gcov_info *const *info = __start_gcov_info; info != __stop_gcov_info; info++) {
		uint32_t length;

		__gcov_info_to_gcda(*info, begin, put, allocate, NULL);
		length = (uint32_t)(used - length_at - sizeof(length));
		memcpy(space + length_at, &length, sizeof(length));
	}
	memset(space + used, 0, sizeof(uint32_t));
}

static void open_space(void)
{
	char path[] = PASTA_COVERAGE "/c-XXXXXX";
	int fd = mkstemp(path);

	space = NULL;
	if (fd < 0)
		return; /* a process that was locked in before it loaded the extension goes uncounted */
	if (!ftruncate(fd, SPACE_BYTES))
		space = mmap(NULL, SPACE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (space == MAP_FAILED)
		space = NULL;
	close(fd);
}

/* A child has counters of its own: parent and child must not write over each other. */
static void open_space_of_child(void)
{
	if (space)
		munmap(space, SPACE_BYTES);
	open_space();
}

__attribute__((constructor)) static void start(void)
{
	open_space();
	pthread_atfork(NULL, NULL, open_space_of_child);
}

__attribute__((destructor)) static void at_exit(void)
{
	keep();
}

#ifndef PASTA_COVERAGE_OF_PARTS
void __real_plane_free(struct plane *p);
void __wrap_plane_free(struct plane *p);

void __wrap_plane_free(struct plane *p)
{
	__real_plane_free(p);
	keep();
}
#endif
