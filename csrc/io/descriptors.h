/* Purpose: know how many descriptors are left from the number of the newest. The kernel gives the lowest free number (open(2)), so
 * all below it are in use, by any part of the program. Nothing is counted. */
#ifndef PASTA_IO_DESCRIPTORS_H
#define PASTA_IO_DESCRIPTORS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>

struct descriptors {
	uint32_t limit; /* RLIMIT_NOFILE */
	uint32_t ports; /* of these, those for forwarded ports */
};

static inline struct descriptors descriptors_now(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur > INT32_MAX)
		return (struct descriptors){INT32_MAX, 0};
	return (struct descriptors){(uint32_t)limit.rlim_cur, 0};
}

/* One part in `parts` of the descriptors that are not for ports. */
static inline uint32_t descriptors_part(const struct descriptors *d, uint32_t parts)
{
	return d->limit > d->ports ? (d->limit - d->ports) / parts : 0;
}

/* Whether less than that part is left. fd: the newest descriptor. */
static inline bool descriptors_below(const struct descriptors *d, int fd, uint32_t parts)
{
	return (uint32_t)fd >= d->limit - descriptors_part(d, parts);
}

#endif
