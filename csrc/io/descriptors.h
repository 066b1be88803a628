/* How many descriptors are left, told by the number of the newest: the kernel gives the lowest that is free (open(2)), so that
 * all below it are in use. Nothing is counted, whoever uses them. */
#ifndef PASTA_IO_DESCRIPTORS_H
#define PASTA_IO_DESCRIPTORS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>

struct descriptors {
	uint32_t limit; /* RLIMIT_NOFILE */
	uint32_t ports; /* of these, those of forwarded ports */
};

static inline struct descriptors descriptors_now(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur > INT32_MAX)
		return (struct descriptors){INT32_MAX, 0};
	return (struct descriptors){(uint32_t)limit.rlim_cur, 0};
}

/* One in `parts` of those that are not for ports. */
static inline uint32_t descriptors_part(const struct descriptors *d, uint32_t parts)
{
	return d->limit > d->ports ? (d->limit - d->ports) / parts : 0;
}

/* Beyond fd, the newest, less than that is left. */
static inline bool descriptors_below(const struct descriptors *d, int fd, uint32_t parts)
{
	return (uint32_t)fd >= d->limit - descriptors_part(d, parts);
}

#endif
