/* Purpose: what all kinds of links share: the receive buffer, the capture in both directions, segmentation for a link that has
 * none.
 *
 * Invariants: a received frame has at least an Ethernet header. With partial_checksum, ETH_HLEN <= csum_start and csum_start +
 * csum_offset + 2 <= len. In a tunnel, inner < csum_start. These values come from the guest and are checked here, once.
 */
#include "io/link.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "io/captures.h"
#include "wire/offload.h"

static int make_non_blocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

int link_init(struct link *l, struct loop *loop, const struct link_kind *kind, int fd, uint8_t header_bytes, bool uso,
	      struct counters *counters)
{
	int rc = 0;

	*l = (struct link){.kind = kind,
			   .fd = -1,
			   .blocked = true,
			   .loop = loop,
			   .header_bytes = header_bytes,
			   .uso = uso,
			   .counters = counters};
	if (kind->init) {
		rc = kind->init(l);
		return rc || fd < 0 ? rc : link_attach(l, fd);
	}
	l->fd = fd;
	l->blocked = false;
	rc = make_non_blocking(fd);
	if (!rc)
		l->rx = malloc(header_bytes + LINK_FRAME_MAX);
	return rc || l->rx ? rc : -ENOMEM;
}

void link_free(struct link *l)
{
	if (l->kind && l->kind->free)
		l->kind->free(l);
	free(l->rx);
	l->rx = NULL;
}

int link_attach(struct link *l, int fd)
{
	int rc;

	if (!l->kind->attach)
		return -EOPNOTSUPP;
	if (l->fd >= 0)
		return -EBUSY;
	l->fd = fd;
	l->blocked = false;
	rc = l->kind->attach(l);
	if (rc)
		link_detach(l);
	return rc;
}

void link_detach(struct link *l)
{
	if (l->kind->detach)
		l->kind->detach(l);
	l->fd = -1;
	l->blocked = true;
	l->buffered = false;
}

int link_join(struct link *l, struct link *first)
{
	return l->kind->join ? l->kind->join(l, first) : -EOPNOTSUPP;
}

static void capture(struct link *l, const struct iovec *iov, int iovcnt, const struct link_tx *tx, enum capture_direction direction)
{
	const struct capture_offload offload = {tx->csum_start != 0, tx->csum_start, tx->csum_offset,
						tx->gso_type == VNET_GSO_UDP_L4 ? tx->gso_size : 0};

	struct captures *captures = atomic_load_explicit(&l->captures, memory_order_relaxed);

	if (UNLIKELY(captures != NULL))
		captures_frame(captures, direction, iov, iovcnt, &offload);
}

int link_read_bytes(struct link *l)
{
	ssize_t n;

	do
		n = read(l->fd, l->rx, l->header_bytes + LINK_FRAME_MAX);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	return n ? (int)n : -ENODEV; /* the other end of a socketpair has closed */
}

void link_offloads(struct link_frame *f, const struct vnet_hdr *vh)
{
	f->gso_type = vh->gso_type & (uint8_t)~VNET_GSO_ECN;
	f->gso_size = f->gso_type == VNET_GSO_NONE ? 0 : vh->gso_size;
	f->partial_checksum = vh->flags & VNET_NEEDS_CSUM;
	if (f->partial_checksum) {
		f->csum_start = vh->csum_start;
		f->csum_offset = vh->csum_offset;
	}
}

struct vnet_hdr link_header(const struct link_tx *tx, bool large)
{
	struct vnet_hdr vh = {0};

	if (!tx->csum_start)
		return vh;
	vh.flags = VNET_NEEDS_CSUM;
	vh.csum_start = tx->csum_start;
	vh.csum_offset = tx->csum_offset;
	if (large) {
		vh.gso_type = tx->gso_type;
		vh.gso_size = tx->gso_size;
		vh.hdr_len = (uint16_t)tx->head_len;
	}
	return vh;
}

int link_received(struct link *l, struct link_frame *f)
{
	bool inside = f->csum_start >= ETH_HLEN && (uint32_t)f->csum_start + f->csum_offset + 2 <= f->len;
	bool tunnel = f->gso_type & VNET_GSO_TUNNEL;

	COUNT(l->counters, tap_rx_frames);
	if (f->len < ETH_HLEN || f->len > LINK_FRAME_MAX || (f->partial_checksum && !inside) ||
	    (tunnel && (!f->partial_checksum || f->inner >= f->csum_start))) {
		COUNT(l->counters, drop_malformed);
		return -EBADMSG;
	}
	COUNT_ADD(l->counters, tap_rx_bytes, f->len);
	capture(l, &(struct iovec){f->data, f->len}, 1,
		&(struct link_tx){.csum_start = f->csum_start,
				  .csum_offset = f->csum_offset,
				  .gso_size = f->gso_size,
				  .gso_type = f->gso_type},
		CAPTURE_FROM_GUEST);
	return 0;
}

const uint8_t link_lent[1];

void link_linearize(struct link *l)
{
	uint8_t *to = l->tail.at;

	for (uint32_t i = 0; i < l->tail.count; i++) {
		memcpy(to, l->tail.parts[i].iov_base, l->tail.parts[i].iov_len);
		to += l->tail.parts[i].iov_len;
	}
	l->tail.count = 0;
}

uint32_t link_parts(const struct link *l, const uint8_t *from, uint32_t bytes, struct iovec *parts, uint32_t room)
{
	uint32_t first = u32_min(bytes, (uint32_t)(l->tail.at - from)), count = 1;

	parts[0] = (struct iovec){(void *)(uintptr_t)from, first};
	bytes -= first;
	for (uint32_t i = 0; i < l->tail.count && bytes && count < room; i++, count++) {
		parts[count] = (struct iovec){l->tail.parts[i].iov_base, u32_min(bytes, (uint32_t)l->tail.parts[i].iov_len)};
		bytes -= (uint32_t)parts[count].iov_len;
	}
	return count;
}

void link_complete_checksum(struct link_frame *f)
{
	if (!f->partial_checksum)
		return;
	checksum_complete(f->data, f->len, f->csum_start, f->csum_offset, NULL, 0);
	f->partial_checksum = false;
}

bool link_untag(struct link_frame *f)
{
	uint32_t off = 0;

	while (eth_is_priority_tagged(f->data + off, f->len - off))
		off += ETH_TAG_BYTES;
	if (!off || (f->partial_checksum && f->csum_start < ETH_HLEN + off) || (f->inner && f->inner < ETH_HLEN + off))
		return false;
	memmove(f->data + off, f->data, (size_t)2 * ETH_ALEN);
	f->data += off;
	f->len -= off;
	f->csum_start = f->partial_checksum ? (uint16_t)(f->csum_start - off) : 0;
	f->inner = f->inner ? (uint16_t)(f->inner - off) : 0;
	return true;
}

bool link_write(struct link *l, const struct iovec *iov, int iovcnt, uint32_t len)
{
	ssize_t n;

	do
		n = writev(l->fd, iov, iovcnt);
	while (n < 0 && errno == EINTR);
	if (n < 0) {
		COUNT(l->counters, tap_tx_dropped);
		return false;
	}
	COUNT(l->counters, tap_tx_frames);
	COUNT_ADD(l->counters, tap_tx_bytes, len);
	return true;
}

void link_sent(struct link *l, const struct iovec *iov, int iovcnt, const struct link_tx *tx)
{
	capture(l, iov, iovcnt, tx, CAPTURE_TO_GUEST);
}

bool link_send_segments(struct link *l, const struct link_tx *tx, bool (*send_one)(struct link *l, const struct link_tx *tx))
{
	struct link_tx one = {
		.head_len = tx->head_len, .body = tx->body, .csum_start = tx->csum_start, .csum_offset = tx->csum_offset};
	struct segmenter s;
	int32_t part;

	if (tx->gso_type != VNET_GSO_UDP_L4)
		segment_begin(&s, tx->head, tx->head_len, ETH_HLEN, tx->csum_start, false, tx->body_len, tx->gso_size);
	else if (!segment_udp(&s, tx->head, tx->head_len, tx->head_len + tx->body_len, tx->csum_start, tx->gso_size))
		return false;
	one.head = s.head;
	while ((part = segment_next(&s)) >= 0) {
		one.body_len = (uint32_t)part;
		if (!send_one(l, &one))
			return false;
		one.body += part;
	}
	return true;
}

uint32_t link_begin(const struct link *l, uint8_t head[LINK_HEAD_MAX], const struct addr *src, const struct addr *dst,
		    uint8_t proto, uint8_t ttl, uint8_t tos, bool df, uint32_t payload_len)
{
	eth_emit(head, neighbour_lookup(&l->neighbours, dst), l->our_mac, addr_is_v4(src) ? ETH_TYPE_IPV4 : ETH_TYPE_IPV6);
	return ETH_HLEN + ip_emit(head + ETH_HLEN, src, dst, proto, ttl, tos, df, payload_len);
}
