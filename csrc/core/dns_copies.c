#include "core/dns_copies.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LENGTH_BYTES 2u

int dns_copies_want(struct dns_copies *c, bool wanted)
{
	if (wanted && !c->at) {
		c->at = malloc(DNS_COPIES_BYTES); /* takes memory as it is used */
		if (!c->at)
			return -ENOMEM;
	}
	c->wanted = wanted;
	if (!wanted) {
		c->used = 0;
		free(c->streams);
		c->streams = NULL;
	}
	return 0;
}

void dns_copies_free(struct dns_copies *c)
{
	free(c->at);
	free(c->streams);
	*c = (struct dns_copies){0};
}

void dns_copies_add(struct dns_copies *c, const uint8_t *message, uint32_t len)
{
	uint32_t gone = 0;

	if (!c->wanted || !len || len > DNS_COPY_MAX_BYTES)
		return;
	while (c->used - gone + LENGTH_BYTES + len > DNS_COPIES_BYTES)
		gone += LENGTH_BYTES + load_be16(c->at + gone);
	memmove(c->at, c->at + gone, c->used - gone);
	c->used -= gone;
	store_be16(c->at + c->used, (uint16_t)len);
	memcpy(c->at + c->used + LENGTH_BYTES, message, len);
	c->used += LENGTH_BYTES + len;
}

/* Where a connection's answers are put together; NULL: its beginning is not known, or there is no memory. */
static struct dns_stream *stream_of(struct dns_copies *c, uint32_t flow, uint32_t generation, uint64_t position)
{
	struct dns_stream *s;

	if (!c->streams)
		c->streams = calloc(DNS_STREAMS, sizeof(*c->streams));
	if (!c->streams)
		return NULL;
	if (!position) {
		s = &c->streams[c->next_stream++ % DNS_STREAMS];
		s->flow = flow;
		s->generation = generation;
		s->position = s->used = 0;
		return s;
	}
	for (s = c->streams; s < c->streams + DNS_STREAMS; s++)
		if (s->flow == flow && s->generation == generation && s->position == position)
			return s;
	return NULL;
}

void dns_copies_add_piece(struct dns_copies *c, uint32_t flow, uint32_t generation, uint64_t position, const uint8_t *data,
			  uint32_t len)
{
	struct dns_stream *s = c->wanted && len ? stream_of(c, flow, generation, position) : NULL;

	if (!s)
		return;
	s->position += len;
	while (len) {
		uint32_t whole = s->used < LENGTH_BYTES ? LENGTH_BYTES : LENGTH_BYTES + load_be16(s->at);
		uint32_t part = u32_min(len, whole - s->used);

		if (s->used < sizeof(s->at))
			memcpy(s->at + s->used, data, u32_min(part, (uint32_t)sizeof(s->at) - s->used));
		s->used += part;
		data += part;
		len -= part;
		if (s->used < LENGTH_BYTES || s->used < LENGTH_BYTES + load_be16(s->at))
			continue;
		dns_copies_add(c, s->at + LENGTH_BYTES, s->used - LENGTH_BYTES);
		s->used = 0;
	}
}

uint32_t dns_copies_take(struct dns_copies *c, uint8_t *out)
{
	uint32_t used = c->used;

	if (used)
		memcpy(out, c->at, used);
	c->used = 0;
	return used;
}
