/* Purpose: map a guest's memory, which its owner may shrink at any time. */
#ifndef PASTA_IO_VHOST_MEMORY_H
#define PASTA_IO_VHOST_MEMORY_H

#include "wire/guest_memory.h"

/* Maps `bytes` bytes of fd from offset on, and adds them as a region. 0; -EINVAL: guest_memory_add() refuses them; another -errno of
 * mmap(2). fd stays the caller's. */
int vhost_memory_map(struct guest_memory *m, int fd, uint64_t guest, uint64_t front_end, uint64_t bytes, uint64_t offset);
/* Unmaps all regions. */
void vhost_memory_unmap(struct guest_memory *m);

/* Whether memory has gone since the last call: zeroes are in its place. */
bool vhost_memory_has_gone(void);
/* Lets this process survive that. Once, before the filter on system calls. 0 or -errno. */
int vhost_memory_survive(void);

#endif
