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
	if (!wanted)
		c->used = 0;
	return 0;
}

void dns_copies_free(struct dns_copies *c)
{
	free(c->at);
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

uint32_t dns_copies_take(struct dns_copies *c, uint8_t *out)
{
	uint32_t used = c->used;

	if (used)
		memcpy(out, c->at, used);
	c->used = 0;
	return used;
}
