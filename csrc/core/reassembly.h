/* Purpose: reassemble the guest's fragments into packets (RFC 791, 3.2; RFC 8200, 4.5). Pure. */
#ifndef PASTA_CORE_REASSEMBLY_H
#define PASTA_CORE_REASSEMBLY_H

#include "wire/ip.h"

#define REASSEMBLY_SLOTS 16    /* packets at once; 64 KiB each, allocated when first needed */
#define REASSEMBLY_HEADROOM 16 /* bytes before a whole packet that the caller may write */
#define REASSEMBLY_BLOCKS (IP_MAX_BYTES / 8 + 1)

struct reassembly_slot {
	struct addr src, dst;
	uint32_t id;
	uint8_t proto; /* of any fragment until the first has come; in IPv4 it also tells packets apart */
	bool used;
	bool refused;     /* its fragments contradict each other: all others are dropped (RFC 5722, 3) */
	bool congested;   /* a fragment has the CE mark (RFC 3168, 5.3) */
	uint8_t ttl, tos; /* of the first fragment */
	int64_t started_ms;
	uint32_t total;   /* bytes after the IP header; 0: the last fragment has not come */
	uint32_t highest; /* end of the data so far */
	uint32_t blocks;  /* of 8 bytes that have come */
	uint8_t *buffer;
	uint8_t there[(REASSEMBLY_BLOCKS + 7) / 8]; /* a bit for each block */
};

/* All zero: empty. */
struct reassembly {
	struct reassembly_slot slot[REASSEMBLY_SLOTS];
};

enum reassembly_result {
	REASSEMBLY_HELD,    /* more fragments are needed */
	REASSEMBLY_WHOLE,   /* *packet is complete, valid until the next call */
	REASSEMBLY_REFUSED, /* the fragment is dropped */
};

void reassembly_free(struct reassembly *r);
/* Takes a view with `fragment` set. A whole packet begins with an IP header without options or extension headers; the
 * REASSEMBLY_HEADROOM bytes before it may be written. */
enum reassembly_result reassembly_add(struct reassembly *r, const struct ip_view *fragment, int64_t now_ms, uint8_t **packet,
				      uint32_t *len);

#endif
