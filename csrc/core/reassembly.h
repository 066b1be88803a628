/* Packets that the guest has cut into fragments, put together (RFC 791, 3.2; RFC 8200, 4.5). Pure. */
#ifndef PASTA_CORE_REASSEMBLY_H
#define PASTA_CORE_REASSEMBLY_H

#include "wire/ip.h"

#define REASSEMBLY_SLOTS 16 /* packets at once; with their buffers about 1 MiB, taken when first needed */
#define REASSEMBLY_TIMEOUT_MS 30000
#define REASSEMBLY_HEADROOM 16 /* bytes before a whole packet that are the caller's */
#define REASSEMBLY_BLOCKS (IP_MAX_BYTES / 8 + 1)

struct reassembly_slot {
	struct addr src, dst;
	uint32_t id;
	uint8_t proto; /* IPv4 tells packets apart by it too; the first fragment's in the end */
	bool used;
	bool refused;     /* contradictory fragments: what else belongs to it is dropped (RFC 5722, 3) */
	uint8_t ttl, tos; /* of the first fragment */
	bool congested;   /* any fragment was marked (RFC 3168, 5.3) */
	int64_t started_ms;
	uint32_t total; /* bytes after the IP header; 0: the last fragment has not come */
	uint32_t highest;
	uint32_t blocks; /* of 8 bytes that are there */
	uint8_t *buffer;
	uint8_t there[(REASSEMBLY_BLOCKS + 7) / 8];
};

/* All zero is empty. */
struct reassembly {
	struct reassembly_slot slot[REASSEMBLY_SLOTS];
};

enum reassembly_result {
	REASSEMBLY_HELD,    /* more fragments are needed */
	REASSEMBLY_WHOLE,   /* *packet is complete, valid until the next call */
	REASSEMBLY_REFUSED, /* the fragment was dropped */
};

void reassembly_free(struct reassembly *r);
/* Takes a view with `fragment` set. A whole packet has a plain IP header, without options or extension headers before the
 * fragmented part; REASSEMBLY_HEADROOM bytes before it may be written. */
enum reassembly_result reassembly_add(struct reassembly *r, const struct ip_view *fragment, int64_t now_ms, uint8_t **packet,
				      uint32_t *len);

#endif
