/* Purpose: names of addresses for captures that have a place for them (pcapng): which frame of a flow is told with its name.
 *
 * How: Python learns names out of the guest's DNS answers, and tells them. The first frame of a flow that a capture takes while the
 * name of its other end is known has that name. So that is the frame that opens it, unless the name came later.
 *
 * Invariants: memory is bounded. Where there is no room, the latest name takes the place of another one with its hash, and a flow may
 * be told again. Nothing is decided by a name.
 */
#ifndef PASTA_IO_CAPTURE_NAMES_H
#define PASTA_IO_CAPTURE_NAMES_H

#include <sys/uio.h>

#include "base/addr.h"
#include "io/pcap_format.h"

struct capture_name {
	struct addr addr;
	uint8_t len; /* 0: a free place */
	char text[PCAP_NAME_MAX];
};

/* Names whose addresses have the same hash. */
struct capture_name_set {
	struct capture_name name[4];
	uint32_t next; /* the place of the next one */
};

struct capture_names {
	struct capture_name_set *set; /* NULL: no capture wants names */
};

/* 0 or -ENOMEM. */
int capture_names_init(struct capture_names *n);
void capture_names_free(struct capture_names *n);
/* Plain text. One that is too long for a name is left out. */
void capture_names_learn(struct capture_names *n, const struct addr *a, const char *text, uint32_t len);

#define CAPTURE_TOLD_FLOWS 2048

#define CAPTURE_TOLD_NAMES 512

/* The flows that one capture has told with their names, and these names. Hashes; 0: none. */
struct capture_told {
	uint32_t flow[CAPTURE_TOLD_FLOWS];
	uint32_t name[CAPTURE_TOLD_NAMES];
};

struct capture_mark {
	uint32_t flow, name;
	bool name_is_new; /* the capture has no block with it yet */
};

/* The name that a frame is to have, or NULL. *mark: for capture_told_add(), when it is in the capture. */
const struct capture_name *capture_name_of(const struct capture_names *n, const struct capture_told *told,
					   enum capture_direction direction, const struct iovec *head, struct capture_mark *mark);

static inline void capture_told_add(struct capture_told *told, const struct capture_mark *mark)
{
	told->flow[mark->flow % CAPTURE_TOLD_FLOWS] = mark->flow;
	told->name[mark->name % CAPTURE_TOLD_NAMES] = mark->name;
}

#endif
