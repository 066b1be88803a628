/* How: a packet goes to the guest as it is, as one segmentation offload frame, or in fragments. Fragment identifications count up;
 * each worker begins at another number.
 *
 * Only UDP's checksum may be left to the tap. No kernel leaves ICMP's, so none completes one for a raw socket, and ping checks what
 * it reads from its raw socket.
 */
#include "io/packet.h"

#include <netinet/in.h>

#include "base/checksum.h"
#include "wire/udp.h"

#define TRANSPORT_MAX 32
#define FRAGMENT6_HLEN 8

static uint64_t pseudo_sum(const struct packet *p, uint32_t len)
{
	return p->proto == IPPROTO_ICMP ? 0 : ip_pseudo_sum(&p->src, &p->dst, p->proto, len);
}

/* The checksum over header and body, as stored. */
static uint16_t checksum_of(const struct packet *p)
{
	uint64_t sum = csum_add(p->header, p->header_len, pseudo_sum(p, p->header_len + p->body_len));
	uint16_t folded = (uint16_t)~csum_fold(csum_add(p->body, p->body_len, sum));

	return p->proto == IPPROTO_UDP && !folded ? 0xffff : folded;
}

static void send_whole(struct io *io, const struct packet *p)
{
	uint8_t head[LINK_HEAD_MAX];
	bool open = p->proto == IPPROTO_UDP;
	uint32_t len = p->header_len + p->body_len;
	uint32_t l4 = link_begin(io->link, head, &p->src, &p->dst, p->proto, p->ttl, p->tos, true, len);
	struct link_tx tx = {.head = head,
			     .head_len = l4 + p->header_len,
			     .body = p->body,
			     .body_len = p->body_len,
			     .csum_start = open ? (uint16_t)l4 : 0,
			     .csum_offset = p->csum_offset,
			     .gso_size = p->gso_size,
			     .gso_type = VNET_GSO_UDP_L4};
	uint16_t sum = open ? csum_fold(pseudo_sum(p, len)) : checksum_of(p);

	memcpy(head + l4, p->header, p->header_len);
	memcpy(head + l4 + p->csum_offset, &sum, 2);
	link_send(io->link, &tx);
}

/* Sends len bytes from offset on. Offsets count from the transport header. */
static void send_fragment(struct io *io, const struct packet *p, const uint8_t *header, uint32_t offset, uint32_t len, bool more,
			  uint32_t id)
{
	bool v4 = addr_is_v4(&p->src);
	uint8_t head[LINK_HEAD_MAX];
	uint32_t extension = v4 ? 0 : FRAGMENT6_HLEN, l4, in_head = 0;
	struct link_tx tx = {.head = head};

	l4 = link_begin(io->link, head, &p->src, &p->dst, v4 ? p->proto : IPPROTO_FRAGMENT, p->ttl, p->tos, false, extension + len);
	if (v4) {
		uint8_t *ip = head + ETH_HLEN;
		uint16_t sum;

		store_be16(ip + 4, (uint16_t)id);
		store_be16(ip + 6, (uint16_t)(offset / 8 | (more ? IP4_MF : 0)));
		memset(ip + 10, 0, 2);
		sum = (uint16_t)~csum_fold(csum_add(ip, IP4_HLEN, 0));
		memcpy(ip + 10, &sum, 2);
	} else {
		head[l4] = p->proto;
		head[l4 + 1] = 0;
		store_be16(head + l4 + 2, (uint16_t)(offset | more));
		store_be32(head + l4 + 4, id);
	}
	if (offset == 0) {
		memcpy(head + l4 + extension, header, p->header_len);
		in_head = p->header_len;
	}
	tx.head_len = l4 + extension + in_head;
	tx.body = p->body + (offset ? offset - p->header_len : 0);
	tx.body_len = len - in_head;
	link_send(io->link, &tx);
}

static void send_fragments(struct io *io, const struct packet *p)
{
	bool v4 = addr_is_v4(&p->src);
	uint32_t total = p->header_len + p->body_len, room, id = io->fragment_id++;
	uint8_t header[TRANSPORT_MAX];
	uint16_t sum;

	/* Each fragment but the last has a multiple of 8 bytes. */
	room = (io->mtu - ip_header_bytes(v4) - (v4 ? 0 : FRAGMENT6_HLEN)) & ~7u;
	memcpy(header, p->header, p->header_len);
	sum = checksum_of(p);
	memcpy(header + p->csum_offset, &sum, 2);
	for (uint32_t offset = 0; offset < total; offset += room)
		send_fragment(io, p, header, offset, u32_min(room, total - offset), total - offset > room, id);
}

static void send_one(struct io *io, const struct packet *p)
{
	if (ip_header_bytes(addr_is_v4(&p->src)) + p->header_len + p->body_len <= io->mtu)
		send_whole(io, p);
	else
		send_fragments(io, p);
}

void packet_send(struct io *io, const struct packet *p)
{
	struct packet part = *p;
	uint8_t header[UDP_HLEN];

	part.gso_size = 0;
	if (!p->gso_size || p->body_len <= p->gso_size) {
		send_one(io, &part);
		return;
	}
	if (ip_header_bytes(addr_is_v4(&p->src)) + UDP_HLEN + (uint32_t)p->gso_size <= io->mtu) {
		send_whole(io, p);
		return;
	}
	/* Each datagram alone exceeds the guest's MTU. */
	memcpy(header, p->header, UDP_HLEN);
	part.header = header;
	for (uint32_t done = 0; done < p->body_len; done += part.body_len) {
		part.body = p->body + done;
		part.body_len = u32_min(p->gso_size, p->body_len - done);
		store_be16(header + 4, (uint16_t)(UDP_HLEN + part.body_len));
		send_one(io, &part);
	}
}
