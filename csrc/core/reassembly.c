/* How: a kernel sends the fragments of a packet one after the other, so unfinished packets are few and short-lived. There is a
 * fixed number of slots; a new packet replaces the oldest; timeouts are checked when a fragment comes. A fragment that overlaps
 * another ends its packet (RFC 5722, 3), in IPv4 too: no honest sender makes one, and overlaps are used to deceive filters. A
 * fragment that was there already is ignored: a network may duplicate one.
 *
 * Invariants: blocks of a slot is the number of bits set in `there`; offset + length never exceeds what an IP packet can hold.
 */
#include "core/reassembly.h"

#include <stdlib.h>

#include "core/timeouts.h"

#define IP4_OFFSET 0x1fff
#define FRAGMENT6_HLEN 8 /* RFC 8200, 4.5 */
#define ECN_CE 3         /* RFC 3168, 5 */
#define DATA_AT (REASSEMBLY_HEADROOM + IP6_HLEN)

struct piece {
	uint32_t id, offset, len;
	bool more;
};

static struct piece read_piece(const struct ip_view *v)
{
	uint16_t field = load_be16(v->v4 ? v->header + 6 : v->payload - FRAGMENT6_HLEN + 2);

	if (v->v4)
		return (struct piece){load_be16(v->header + 4), (field & IP4_OFFSET) * 8u, v->payload_len, field & IP4_MF};
	return (struct piece){load_be32(v->payload - FRAGMENT6_HLEN + 4), field & 0xfff8u, v->payload_len, field & 1};
}

static bool matches(const struct reassembly_slot *s, const struct ip_view *v, uint32_t id)
{
	return s->used && s->id == id && addr_eq(&s->src, &v->src) && addr_eq(&s->dst, &v->dst) && (!v->v4 || s->proto == v->proto);
}

/* The slot of this fragment's packet, or a new one that replaces the oldest. NULL: no memory. */
static struct reassembly_slot *find_slot(struct reassembly *r, const struct ip_view *v, uint32_t id, int64_t now_ms)
{
	struct reassembly_slot *oldest = &r->slot[0];
	uint8_t *buffer;

	for (int i = 0; i < REASSEMBLY_SLOTS; i++) {
		struct reassembly_slot *s = &r->slot[i];

		if (s->used && now_ms - s->started_ms >= REASSEMBLY_TIMEOUT_MS)
			s->used = false;
		if (matches(s, v, id))
			return s;
		if (oldest->used && (!s->used || s->started_ms < oldest->started_ms))
			oldest = s;
	}
	buffer = oldest->buffer ? oldest->buffer : malloc(DATA_AT + IP_MAX_BYTES);
	if (!buffer)
		return NULL;
	*oldest = (struct reassembly_slot){
		.src = v->src, .dst = v->dst, .id = id, .proto = v->proto, .used = true, .started_ms = now_ms, .buffer = buffer};
	return oldest;
}

/* Whether the piece agrees with the packet's length, if that is known. */
static bool length_fits(struct reassembly_slot *s, const struct piece *p)
{
	uint32_t end = p->offset + p->len;

	if (p->more)
		return !s->total || end < s->total;
	if ((s->total && s->total != end) || s->highest > end)
		return false;
	s->total = end;
	return true;
}

/* Marks the piece's blocks. False: some of them, not all, were there. *repeated: all of them were. */
static bool mark(struct reassembly_slot *s, const struct piece *p, bool *repeated)
{
	uint32_t first = p->offset / 8, count = (p->len + 7) / 8, before = 0;

	for (uint32_t i = first; i < first + count; i++)
		before += s->there[i / 8] >> (i % 8) & 1;
	*repeated = before == count;
	if (before)
		return *repeated;
	for (uint32_t i = first; i < first + count; i++)
		s->there[i / 8] |= (uint8_t)(1 << (i % 8));
	s->blocks += count;
	return true;
}

static void finish(struct reassembly_slot *s, bool v4, uint8_t **packet, uint32_t *len)
{
	uint16_t header = ip_header_bytes(v4);

	*packet = s->buffer + DATA_AT - header;
	*len = header + s->total;
	ip_emit(*packet, &s->src, &s->dst, s->proto, s->ttl, (uint8_t)(s->congested ? s->tos | ECN_CE : s->tos), false, s->total);
	s->used = false;
}

void reassembly_free(struct reassembly *r)
{
	for (int i = 0; i < REASSEMBLY_SLOTS; i++)
		free(r->slot[i].buffer);
	*r = (struct reassembly){0};
}

enum reassembly_result reassembly_add(struct reassembly *r, const struct ip_view *v, int64_t now_ms, uint8_t **packet,
				      uint32_t *len)
{
	struct piece p = read_piece(v);
	uint32_t max = v->v4 ? IP_MAX_BYTES - IP4_HLEN : IP_MAX_BYTES;
	struct reassembly_slot *s;
	bool repeated;

	/* No fragment is empty, and each but the last has whole blocks. */
	if (!p.len || (p.more && p.len % 8) || p.offset + p.len > max)
		return REASSEMBLY_REFUSED;
	s = find_slot(r, v, p.id, now_ms);
	if (!s || s->refused)
		return REASSEMBLY_REFUSED;
	if (!length_fits(s, &p) || !mark(s, &p, &repeated)) {
		s->refused = true;
		return REASSEMBLY_REFUSED;
	}
	if (repeated)
		return REASSEMBLY_HELD;
	memcpy(s->buffer + DATA_AT + p.offset, v->payload, p.len);
	s->highest = u32_max(s->highest, p.offset + p.len);
	s->congested |= (v->tos & ECN_CE) == ECN_CE;
	if (!p.offset) {
		s->proto = v->proto;
		s->ttl = v->ttl;
		s->tos = v->tos;
	}
	if (!s->total || s->blocks != (s->total + 7) / 8)
		return REASSEMBLY_HELD;
	finish(s, v->v4, packet, len);
	return REASSEMBLY_WHOLE;
}
