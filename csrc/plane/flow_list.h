/* The open flows of one shard as records (core/event.h), in pieces: a long list must not delay traffic. */
#ifndef PASTA_PLANE_FLOW_LIST_H
#define PASTA_PLANE_FLOW_LIST_H

#include "io/io.h"
#include "proto/icmp.h"
#include "proto/splice.h"
#include "proto/tcp.h"
#include "proto/udp.h"

struct flow_list {
	struct flow_event *at; /* NULL before the first piece */
	uint32_t count;
	uint32_t next; /* where the next piece begins; 0: this was the last */
};

struct flow_tables {
	const struct tcp *tcp;
	const struct udp *udp;
	const struct icmp *icmp;
	const struct splice *splice;
	struct io *io;
	uint32_t shard;
};

/* Makes the piece that begins at `from`; 0: the first. Without memory it is empty and the last. */
void flow_list_fill(struct flow_list *l, const struct flow_tables *t, uint32_t from);
void flow_list_free(struct flow_list *l);

#endif
