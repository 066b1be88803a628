/* Purpose: our own tap. At any MTU the guest's kernel exchanges segments of up to 64 KiB without checksums, which makes it fast. */
#include "io/link.h"

static int read_frame(struct link *l, struct link_frame *f)
{
	struct vnet_hdr_tunnel header = {0};
	int n = link_read_bytes(l);

	_Static_assert(sizeof(struct vnet_hdr) == 10 && sizeof(struct vnet_hdr_tunnel) == 24, "the wire formats of the tap");
	if (n < 0)
		return n;
	if (n >= l->header_bytes)
		memcpy(&header, l->rx, l->header_bytes);
	*f = (struct link_frame){.data = l->rx + l->header_bytes, .len = (uint32_t)n - l->header_bytes};
	link_offloads(f, &header.common);
	if (f->partial_checksum && f->gso_type & VNET_GSO_TUNNEL)
		f->inner = (uint16_t)(header.inner_network[0] | header.inner_network[1] << 8);
	return link_received(l, f);
}

static bool send_frame(struct link *l, const struct link_tx *tx)
{
	struct vnet_hdr_tunnel header = {0};
	struct iovec iov[3] = {{&header, l->header_bytes}, {tx->head, tx->head_len}, {(void *)(uintptr_t)tx->body, tx->body_len}};
	bool large = tx->gso_size && tx->body_len > tx->gso_size;

	if (large && tx->gso_type == VNET_GSO_UDP_L4 && !l->uso)
		return link_send_segments(l, tx, send_frame);
	header.common = link_header(tx, large);
	if (!link_write(l, iov, 3, tx->head_len + tx->body_len))
		return false;
	link_sent(l, iov + 1, 2, tx);
	return true;
}

const struct link_kind link_tap = {.offloads = true, .read = read_frame, .send = send_frame};
