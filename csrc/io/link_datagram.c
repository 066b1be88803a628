/* Purpose: a descriptor with one plain frame per read and write (--fd, a socketpair). Segmentation and checksums are done here. */
#include "io/link.h"
#include "wire/offload.h"

static int read_frame(struct link *l, struct link_frame *f)
{
	int n = link_read_bytes(l);

	if (n < 0)
		return n;
	*f = (struct link_frame){.data = l->rx, .len = (uint32_t)n};
	return link_received(l, f);
}

/* Sends one frame. Its checksum is completed in a copy of the headers. */
static bool send_one(struct link *l, const struct link_tx *tx)
{
	uint8_t head[LINK_HEAD_MAX];
	struct iovec iov[2] = {{head, tx->head_len}, {(void *)(uintptr_t)tx->body, tx->body_len}};

	memcpy(head, tx->head, tx->head_len);
	if (tx->csum_start)
		checksum_complete(head, tx->head_len, tx->csum_start, tx->csum_offset, tx->body, tx->body_len);
	if (!link_write(l, iov, 2, tx->head_len + tx->body_len))
		return false;
	link_sent(l, iov, 2, &(struct link_tx){0});
	return true;
}

static bool send_frame(struct link *l, const struct link_tx *tx)
{
	if (tx->gso_size && tx->body_len > tx->gso_size)
		return link_send_segments(l, tx, send_one);
	return send_one(l, tx);
}

const struct link_kind link_datagram = {.offloads = false, .read = read_frame, .send = send_frame};
