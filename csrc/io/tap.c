/* Owns the tap descriptor's framing: the virtio-net header, offloads and what replaces them, the capture of both ways.
 *
 * With the header the guest's kernel takes and gives segments of up to 64 KiB without checksums at any MTU, which is where
 * the speed comes from. Without it (--fd, a socketpair) tap_send() cuts and checksums them here.
 * Invariant: a frame given out has at least an Ethernet header, and ETH_HLEN <= csum_start, csum_start + csum_offset + 2 <= len
 * if partial_checksum is set: both come from the guest and are checked here, once.
 */
#include "io/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/checksum.h"
#include "io/capture.h"
#include "wire/tcp.h"
#include "wire/udp.h"

int tap_init(struct tap *t, int fd, uint8_t header_bytes, bool uso, struct counters *counters)
{
	int flags = fcntl(fd, F_GETFL);

	_Static_assert(sizeof(struct vnet_hdr) == 10 && sizeof(struct vnet_hdr_tunnel) == 24, "the wire formats of the tap");
	*t = (struct tap){.fd = fd, .header_bytes = header_bytes, .uso = uso, .counters = counters};
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	t->rx = malloc(header_bytes + TAP_FRAME_MAX);
	return t->rx ? 0 : -ENOMEM;
}

void tap_free(struct tap *t)
{
	free(t->rx);
	t->rx = NULL;
}

static void capture(struct tap *t, const struct iovec *iov, int iovcnt, const struct tap_tx *tx,
		    enum capture_direction direction)
{
	const struct capture_offload offload = {tx->csum_start != 0, tx->csum_start, tx->csum_offset,
						tx->gso_type == VNET_GSO_UDP_L4 ? tx->gso_size : 0};

	if (UNLIKELY(t->capture != NULL))
		capture_frame(t->capture, direction, iov, iovcnt, &offload);
}

/* Reads what the header says about the frame; false if it points outside. */
static bool offloads(const struct vnet_hdr_tunnel *header, struct tap_frame *f)
{
	const struct vnet_hdr *vh = &header->common;

	f->gso_type = vh->gso_type & (uint8_t)~VNET_GSO_ECN;
	f->gso_size = f->gso_type == VNET_GSO_NONE ? 0 : vh->gso_size;
	f->partial_checksum = vh->flags & VNET_NEEDS_CSUM;
	f->csum_start = f->csum_offset = f->inner = 0;
	if (!f->partial_checksum)
		return !(f->gso_type & VNET_GSO_TUNNEL);
	f->csum_start = vh->csum_start;
	f->csum_offset = vh->csum_offset;
	if (f->gso_type & VNET_GSO_TUNNEL) {
		f->inner = (uint16_t)(header->inner_network[0] | header->inner_network[1] << 8);
		if (f->inner >= f->csum_start)
			return false;
	}
	return (uint32_t)vh->csum_start + vh->csum_offset + 2 <= f->len && vh->csum_start >= ETH_HLEN;
}

int tap_read(struct tap *t, struct tap_frame *f)
{
	uint32_t skip = t->header_bytes;
	struct vnet_hdr_tunnel vh = {0};
	ssize_t n;

	do
		n = read(t->fd, t->rx, skip + TAP_FRAME_MAX);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if (n == 0)
		return -ENODEV; /* the other end of a socketpair has closed */
	if ((size_t)n >= skip)
		memcpy(&vh, t->rx, skip);
	f->data = t->rx + skip;
	f->len = (uint32_t)n - skip;
	COUNT(t->counters, tap_rx_frames);
	if ((size_t)n < skip + ETH_HLEN || !offloads(&vh, f)) {
		COUNT(t->counters, drop_malformed);
		return -EBADMSG;
	}
	COUNT_ADD(t->counters, tap_rx_bytes, f->len);
	capture(t, &(struct iovec){f->data, f->len}, 1,
		&(struct tap_tx){.csum_start = f->csum_start, .csum_offset = f->csum_offset, .gso_size = f->gso_size,
				 .gso_type = f->gso_type},
		CAPTURE_FROM_GUEST);
	return 0;
}

/* Finishes the checksum at field, which holds the pseudo-header sum, over head from start and body. */
static void finish_checksum(uint8_t *head, uint32_t head_len, uint32_t start, uint32_t offset, const uint8_t *body,
			    uint32_t body_len)
{
	/* Heads have an even length, so that the sum of the body continues on a 16-bit boundary. */
	uint64_t sum = csum_add(body, body_len, csum_add(head + start, head_len - start, 0));
	uint16_t folded = (uint16_t)~csum_fold(sum);

	if (offset == UDP_CSUM_OFFSET && !folded)
		folded = 0xffff; /* RFC 768: 0 would mean that there is none */
	memcpy(head + start + offset, &folded, 2);
}

void tap_complete_checksum(struct tap_frame *f)
{
	if (!f->partial_checksum)
		return;
	finish_checksum(f->data, f->len, f->csum_start, f->csum_offset, NULL, 0);
	f->partial_checksum = false;
}

bool tap_untag(struct tap_frame *f)
{
	uint32_t off = 0;

	while (eth_is_priority_tagged(f->data + off, f->len - off))
		off += ETH_TAG_BYTES;
	if (!off || (f->partial_checksum && f->csum_start < ETH_HLEN + off) || (f->inner && f->inner < ETH_HLEN + off))
		return false;
	memmove(f->data + off, f->data, 2 * ETH_ALEN);
	f->data += off;
	f->len -= off;
	f->csum_start = f->partial_checksum ? (uint16_t)(f->csum_start - off) : 0;
	f->inner = f->inner ? (uint16_t)(f->inner - off) : 0;
	return true;
}

static bool write_frame(struct tap *t, const struct iovec *iov, int iovcnt, uint32_t len)
{
	ssize_t n;

	do
		n = writev(t->fd, iov, iovcnt);
	while (n < 0 && errno == EINTR);
	if (n < 0) {
		COUNT(t->counters, tap_tx_dropped);
		return false;
	}
	COUNT(t->counters, tap_tx_frames);
	COUNT_ADD(t->counters, tap_tx_bytes, len);
	return true;
}

/* One segment without the kernel's help: the checksum is finished in a copy of the head. */
static bool send_plain(struct tap *t, const struct tap_tx *tx)
{
	uint8_t head[TAP_HEAD_MAX];
	struct vnet_hdr_tunnel vh = {0};
	struct iovec iov[3] = {{&vh, t->header_bytes}, {head, tx->head_len}, {(void *)(uintptr_t)tx->body, tx->body_len}};
	int skip = t->header_bytes ? 0 : 1;

	memcpy(head, tx->head, tx->head_len);
	if (tx->csum_start)
		finish_checksum(head, tx->head_len, tx->csum_start, tx->csum_offset, tx->body, tx->body_len);
	if (!write_frame(t, iov + skip, 3 - skip, tx->head_len + tx->body_len))
		return false;
	capture(t, iov + 1, 2, &(struct tap_tx){0}, CAPTURE_TO_GUEST);
	return true;
}

/* What the kernel's GSO would do: body cut into gso_size pieces, each with its own headers. */
static bool send_segmented(struct tap *t, const struct tap_tx *tx)
{
	bool v4 = eth_type(tx->head) == ETH_TYPE_IPV4, udp = tx->gso_type == VNET_GSO_UDP_L4;
	uint32_t transport = tx->csum_start;
	uint8_t *l4, flags = 0;

	for (uint32_t done = 0; done < tx->body_len;) {
		uint8_t head[TAP_HEAD_MAX];
		uint32_t part = u32_min(tx->gso_size, tx->body_len - done), l4_len = tx->head_len - transport + part;
		struct tap_tx one = {.head = head, .head_len = tx->head_len, .body = tx->body + done, .body_len = part,
				     .csum_start = tx->csum_start, .csum_offset = tx->csum_offset};
		struct addr src, dst;
		uint8_t *ip = head + ETH_HLEN;
		uint16_t sum;

		memcpy(head, tx->head, tx->head_len);
		l4 = head + transport;
		src = v4 ? addr_from_v4(ip + 12) : addr_from_v6(ip + 8);
		dst = v4 ? addr_from_v4(ip + 16) : addr_from_v6(ip + 24);
		ip_emit(ip, &src, &dst, v4 ? ip[9] : ip[6], v4 ? ip[8] : ip[7], (uint8_t)(v4 ? ip[1] : load_be16(ip) >> 4),
			v4 && (ip[6] & 0x40), l4_len);
		if (udp) {
			store_be16(l4 + 4, (uint16_t)l4_len);
		} else {
			store_be32(l4 + 4, load_be32(l4 + 4) + done);
			flags = l4[13];
			if (done + part < tx->body_len)
				l4[13] = flags & (uint8_t)~(TCP_FIN | TCP_PSH);
		}
		sum = csum_fold(ip_pseudo_sum(&src, &dst, udp ? IPPROTO_UDP : IPPROTO_TCP, l4_len));
		memcpy(l4 + tx->csum_offset, &sum, 2);
		if (!send_plain(t, &one))
			return false;
		done += part;
	}
	return true;
}

bool tap_send(struct tap *t, const struct tap_tx *tx)
{
	struct vnet_hdr_tunnel header = {0};
	struct vnet_hdr *vh = &header.common;
	struct iovec iov[3] = {{&header, t->header_bytes}, {tx->head, tx->head_len}, {(void *)(uintptr_t)tx->body, tx->body_len}};

	if (!t->header_bytes || (tx->gso_type == VNET_GSO_UDP_L4 && !t->uso))
		if (tx->gso_size && tx->body_len > tx->gso_size)
			return send_segmented(t, tx);
	if (!t->header_bytes)
		return send_plain(t, tx);
	if (tx->csum_start) {
		vh->flags = VNET_NEEDS_CSUM;
		vh->csum_start = tx->csum_start;
		vh->csum_offset = tx->csum_offset;
		if (tx->gso_size && tx->body_len > tx->gso_size) {
			vh->gso_type = tx->gso_type;
			vh->gso_size = tx->gso_size;
			vh->hdr_len = (uint16_t)tx->head_len;
		}
	}
	if (!write_frame(t, iov, 3, tx->head_len + tx->body_len))
		return false;
	capture(t, iov + 1, 2, tx, CAPTURE_TO_GUEST);
	return true;
}

uint32_t tap_begin(const struct tap *t, uint8_t head[TAP_HEAD_MAX], const struct addr *src, const struct addr *dst,
		   uint8_t proto, uint8_t ttl, uint8_t tos, bool df, uint32_t payload_len)
{
	eth_emit(head, neighbour_lookup(&t->neighbours, dst), t->our_mac, addr_is_v4(src) ? ETH_TYPE_IPV4 : ETH_TYPE_IPV6);
	return ETH_HLEN + ip_emit(head + ETH_HLEN, src, dst, proto, ttl, tos, df, payload_len);
}
