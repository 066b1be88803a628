/* Purpose: frames over a socket, each behind its length in 32 bits, big-endian: what QEMU's `-netdev stream` speaks, and all that
 * start passt.
 *
 * How: one system call reads all that waits, up to RX_BYTES. Frames are handed out from there. Consecutive segments of a stream are
 * joined (wire/coalesce.h), because a guest behind such a socket has no offloads, unless a capture wants the frames as they came.
 * When a read has not filled the buffer, the socket is empty, and the next one waits for an event.
 *
 * Towards the peer, small frames are collected and leave with link_flush(), at the end of a turn. A large one leaves at once with those
 * before it; its payload is not copied. What TCP has read at once comes as a train, whose segments leave in few calls: the peer wakes
 * for many frames, not for each. What the socket does not take is kept, the rest of a frame first. While something is kept
 * the link is `blocked`: TCP leaves its data in the host's sockets, so nothing of it is lost. Other frames are kept too while there
 * is room, then dropped.
 *
 * A packet socket (SOCK_SEQPACKET, SOCK_DGRAM) carries whole frames with their lengths: one for each message that we send, any number
 * in one that we read. It takes a frame at once or loses it, and is never blocked.
 *
 * Invariants: a length is checked before anything else is done with its frame. tx holds the rest of at most one frame, then whole
 * frames. Nothing here waits. What a peer left behind does not outlive it.
 *
 * Rejected: waiting for room for the rest of a frame, with which a peer that stops reading stops every flow.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "base/bytes.h"
#include "io/io.h"
#include "wire/coalesce.h"
#include "wire/offload.h"
#include "wire/tcp.h"

#define LENGTH_BYTES 4
#define FRAME_MAX 65535 /* as passt has it: a packet for the largest MTU and its Ethernet header fit */

#define RX_BYTES (256u << 10)
#define TX_BYTES ((256u << 10) + SCRATCH_BYTES) /* a whole train and more */
#define TX_EARLY_BYTES (64u << 10)              /* collected frames that leave before the end of the turn */
#define SMALL_BYTES 4096                        /* copying a frame up to this costs less than a system call */
#define SEGMENTS 128                            /* in one system call */
/* For the kernel to hold towards a peer that is slower. A UNIX socket takes more only when three quarters of this have been read, and
 * with the 208 KiB of the default that leaves no time between "full" and "empty". */
#define SOCKET_BYTES (1 << 20)

struct stream {
	bool packets;
	bool emptied; /* the last read took all that the socket had */
	uint32_t rx_from, rx_len;
	uint32_t tx_from, tx_len;
	uint8_t tx[TX_BYTES];
};

static int make(struct link *l)
{
	l->state = malloc(sizeof(struct stream)); /* memory where it is used only */
	l->rx = malloc(RX_BYTES);
	return l->state && l->rx ? 0 : -ENOMEM;
}

static void destroy(struct link *l)
{
	free(l->state);
	l->state = NULL;
}

static int attach(struct link *l)
{
	struct stream *s = l->state;
	int type = 0, bytes = SOCKET_BYTES;
	socklen_t len = sizeof(type);

	/* Without it we work, only slower. */
	(void)setsockopt(l->fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	if (getsockopt(l->fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0)
		return -errno;
	s->packets = type != SOCK_STREAM;
	s->rx_from = s->rx_len = s->tx_from = s->tx_len = 0;
	s->emptied = false;
	return 0;
}

/* --- from the peer --- */

/* More bytes behind those that are there. 0 or -errno as link_read(). */
static int fill(struct link *l, struct stream *s)
{
	ssize_t n;

	if (s->packets) {
		if (s->rx_from < s->rx_len)
			COUNT(l->counters, drop_malformed); /* the message ended inside a frame */
		s->rx_from = s->rx_len;
	}
	if (s->rx_from) {
		memmove(l->rx, l->rx + s->rx_from, s->rx_len - s->rx_from);
		s->rx_len -= s->rx_from;
		s->rx_from = 0;
	}
	do
		n = recv(l->fd, l->rx + s->rx_len, RX_BYTES - s->rx_len, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if (!n)
		return -ENODEV;
	s->emptied = !s->packets && (uint32_t)n < RX_BYTES - s->rx_len;
	s->rx_len += (uint32_t)n;
	return 0;
}

/* The length of the frame at rx_from; 0: it has not come whole; -EPROTO: there cannot be such a frame. */
static int next_length(const struct link *l, const struct stream *s)
{
	uint32_t have = s->rx_len - s->rx_from, len;

	if (have < LENGTH_BYTES)
		return 0;
	len = load_be32(l->rx + s->rx_from);
	if (len < ETH_HLEN || len > FRAME_MAX)
		return -EPROTO;
	return have - LENGTH_BYTES < len ? 0 : (int)len;
}

/* Joins what follows to the frame f. */
static void join(const struct link *l, struct stream *s, struct link_frame *f)
{
	struct coalesced c;
	int len;

	if (!coalesce_begin(&c, f->data, f->len))
		return;
	while ((len = next_length(l, s)) > 0 && coalesce_add(&c, l->rx + s->rx_from + LENGTH_BYTES, (uint32_t)len))
		s->rx_from += LENGTH_BYTES + (uint32_t)len;
	if (!c.grown)
		return;
	coalesce_end(&c);
	f->len = c.len;
	f->gso_size = (uint16_t)c.size;
	f->gso_type = c.v4 ? VNET_GSO_TCPV4 : VNET_GSO_TCPV6;
	f->partial_checksum = true;
	f->csum_start = (uint16_t)c.transport;
	f->csum_offset = TCP_CSUM_OFFSET;
}

static int read_frame(struct link *l, struct link_frame *f)
{
	struct stream *s = l->state;
	int len, rc;

	if (l->fd < 0)
		return -EAGAIN;
	while ((len = next_length(l, s)) == 0) {
		rc = fill(l, s);
		if (rc) {
			l->buffered = false;
			return rc;
		}
	}
	if (len < 0)
		return len;
	*f = (struct link_frame){.data = l->rx + s->rx_from + LENGTH_BYTES, .len = (uint32_t)len};
	s->rx_from += LENGTH_BYTES + (uint32_t)len;
	if (!l->captures)
		join(l, s, f);
	l->buffered = next_length(l, s) != 0;
	l->drained = !l->buffered && s->emptied;
	return link_received(l, f);
}

/* --- to the peer --- */

/* Sends what the socket takes; returns how much. */
static size_t write_some(struct link *l, struct iovec *iov, size_t count)
{
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = count};
	ssize_t n;

	do
		n = sendmsg(l->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	return n < 0 ? 0 : (size_t)n; /* after an error the next read says that the peer has gone */
}

static void flush(struct link *l)
{
	struct stream *s = l->state;
	size_t n;

	if (s->tx_from == s->tx_len || l->fd < 0)
		return;
	n = write_some(l, &(struct iovec){s->tx + s->tx_from, s->tx_len - s->tx_from}, 1);
	s->tx_from += (uint32_t)n;
	l->blocked = s->tx_from < s->tx_len;
	if (!l->blocked)
		s->tx_from = s->tx_len = 0;
}

/* Room for len bytes behind those that wait. */
static bool make_room(struct stream *s, uint32_t len)
{
	if (s->tx_len + len > TX_BYTES && s->tx_from) {
		memmove(s->tx, s->tx + s->tx_from, s->tx_len - s->tx_from);
		s->tx_len -= s->tx_from;
		s->tx_from = 0;
	}
	return s->tx_len + len <= TX_BYTES;
}

static void keep(struct stream *s, const struct iovec *iov, size_t skip)
{
	if (iov->iov_len <= skip)
		return;
	memcpy(s->tx + s->tx_len, (const uint8_t *)iov->iov_base + skip, iov->iov_len - skip);
	s->tx_len += (uint32_t)(iov->iov_len - skip);
}

static size_t total(const struct iovec *iov, size_t count)
{
	size_t sum = 0;

	for (size_t i = 0; i < count; i++)
		sum += iov[i].iov_len;
	return sum;
}

/* iov[0] is left for what waits; behind it are `frames` frames of two parts each. Returns how many frames are sent or kept. */
static size_t write_frames(struct link *l, struct iovec *iov, size_t frames)
{
	struct stream *s = l->state;
	size_t sent = 0, done = 0;

	iov[0] = (struct iovec){s->tx + s->tx_from, s->tx_len - s->tx_from};
	if (!l->blocked) {
		sent = write_some(l, iov, 1 + 2 * frames);
		l->blocked = sent < total(iov, 1 + 2 * frames);
		s->tx_from += (uint32_t)size_min(sent, iov[0].iov_len);
		sent -= size_min(sent, iov[0].iov_len);
		if (s->tx_from == s->tx_len)
			s->tx_from = s->tx_len = 0;
	}
	for (; done < frames; done++) {
		const struct iovec *part = &iov[1 + 2 * done];
		size_t len = total(part, 2), skip = size_min(sent, len);

		if (skip < len && !make_room(s, (uint32_t)(len - skip)))
			break;
		keep(s, part, skip);
		keep(s, part + 1, skip - size_min(skip, part->iov_len));
		sent -= skip;
	}
	return done;
}

/* The headers of a frame as they are sent: length first, checksum complete. */
struct sent_head {
	uint8_t bytes[LENGTH_BYTES + LINK_HEAD_MAX];
};

static void begin_frame(struct sent_head *h, struct iovec iov[2], const struct link_tx *tx)
{
	uint8_t *head = h->bytes + LENGTH_BYTES;

	store_be32(h->bytes, tx->head_len + tx->body_len);
	memcpy(head, tx->head, tx->head_len);
	if (tx->csum_start)
		checksum_complete(head, tx->head_len, tx->csum_start, tx->csum_offset, tx->body, tx->body_len);
	iov[0] = (struct iovec){h->bytes, LENGTH_BYTES + tx->head_len};
	iov[1] = (struct iovec){(void *)(uintptr_t)tx->body, tx->body_len};
}

/* A frame is on its way: counts and captures it. */
static void count(struct link *l, const struct iovec iov[2])
{
	struct iovec frame[2] = {{(uint8_t *)iov[0].iov_base + LENGTH_BYTES, iov[0].iov_len - LENGTH_BYTES}, iov[1]};

	COUNT(l->counters, tap_tx_frames);
	COUNT_ADD(l->counters, tap_tx_bytes, frame[0].iov_len + frame[1].iov_len);
	link_sent(l, frame, 2, &(struct link_tx){0});
}

static bool dropped(struct link *l)
{
	COUNT(l->counters, tap_tx_dropped);
	return false;
}

static bool send_one(struct link *l, const struct link_tx *tx)
{
	struct stream *s = l->state;
	uint32_t len = LENGTH_BYTES + tx->head_len + tx->body_len;
	struct sent_head head;
	struct iovec iov[3];

	if (len > LENGTH_BYTES + FRAME_MAX)
		return dropped(l);
	begin_frame(&head, iov + 1, tx);
	if (s->packets) {
		if (write_some(l, iov + 1, 2) != len)
			return dropped(l);
	} else if (len <= SMALL_BYTES && make_room(s, len)) {
		keep(s, &iov[1], 0);
		keep(s, &iov[2], 0);
		count(l, iov + 1);
		if (!l->blocked && s->tx_len >= TX_EARLY_BYTES)
			flush(l);
		return true;
	} else if (!write_frames(l, iov, 1)) {
		return dropped(l);
	}
	count(l, iov + 1);
	return true;
}

/* Sends the TCP segments of tx, many with one system call. */
static bool send_segments(struct link *l, const struct link_tx *tx)
{
	struct link_tx one = {.body = tx->body, .csum_start = tx->csum_start, .csum_offset = tx->csum_offset};
	struct sent_head head[SEGMENTS];
	struct iovec iov[1 + 2 * SEGMENTS];
	struct segmenter segments;
	int32_t part;

	segment_begin(&segments, tx->head, tx->head_len, ETH_HLEN, tx->csum_start, false, tx->body_len, tx->gso_size);
	one.head = segments.head;
	one.head_len = tx->head_len;
	do {
		size_t frames = 0, done;

		while (frames < SEGMENTS && (part = segment_next(&segments)) >= 0) {
			one.body_len = (uint32_t)part;
			begin_frame(&head[frames], &iov[1 + 2 * frames], &one);
			one.body += part;
			frames++;
		}
		done = write_frames(l, iov, frames);
		for (size_t i = 0; i < done; i++)
			count(l, &iov[1 + 2 * i]);
		if (done < frames)
			return dropped(l);
	} while (part >= 0);
	return true;
}

static bool send_frame(struct link *l, const struct link_tx *tx)
{
	const struct stream *s = l->state;

	if (l->fd < 0)
		return dropped(l);
	if (!tx->gso_size || tx->body_len <= tx->gso_size)
		return send_one(l, tx);
	if (s->packets || tx->gso_type == VNET_GSO_UDP_L4)
		return link_send_segments(l, tx, send_one);
	return send_segments(l, tx);
}

const struct link_kind link_stream = {.offloads = false,
				      .trains = true,
				      .init = make,
				      .free = destroy,
				      .attach = attach,
				      .read = read_frame,
				      .send = send_frame,
				      .flush = flush};
