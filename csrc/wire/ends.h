/* Purpose: the two ends of the flow that a frame belongs to, out of its first bytes: for readers that have no more of it. */
#ifndef PASTA_WIRE_ENDS_H
#define PASTA_WIRE_ENDS_H

#include <stdbool.h>

#include "base/addr.h"

struct frame_ends {
	struct addr src, dst;
	uint16_t src_port, dst_port; /* of a ping both are its identifier */
	uint8_t proto;
	bool opens; /* a SYN without ACK */
};

/* False: the frame is none of TCP, UDP or ping (RFC 792, RFC 4443), a fragment, has extension headers, or its headers end behind len. */
bool frame_ends(const uint8_t *frame, size_t len, struct frame_ends *out);

#endif
