/* Purpose: fuzz target: any bytes on the socket of a link with lengths before its frames (io/link_stream.c).
 *
 * How: the socket is a real one. The first byte gives the size of the pieces in which the bytes arrive, and bit 7 corrects checksums
 * and sequence numbers first, so that frames that follow each other are joined. Every frame that the link gives out is cut into its
 * segments again, and each must be what was sent, but for what segmentation makes anew.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/checksum.h"
#include "io/link.h"
#include "kernel.h"
#include "wire/offload.h"
#include "wire/tcp.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define IP4_CSUM 10

static uint32_t headers(const uint8_t *frame)
{
	return ETH_HLEN + (eth_type(frame) == ETH_TYPE_IPV4 ? IP4_HLEN : IP6_HLEN);
}

/* Makes the checksums of a TCP frame right, and its sequence number *next. */
static void correct(uint8_t *frame, uint32_t len, uint32_t *next)
{
	uint32_t l4 = headers(frame);
	bool v4 = l4 == ETH_HLEN + IP4_HLEN;
	uint8_t *ip = frame + ETH_HLEN;
	struct ip_view view;
	uint16_t sum;

	if (len < l4 + TCP_HLEN)
		return;
	if (v4) {
		memset(ip + IP4_CSUM, 0, 2);
		sum = (uint16_t)~csum_fold(csum_add(ip, IP4_HLEN, 0));
		memcpy(ip + IP4_CSUM, &sum, 2);
	}
	store_be32(frame + l4 + 4, *next);
	*next += len - l4 - u32_min(len - l4, (uint32_t)(frame[l4 + 12] >> 4) * 4);
	memset(frame + l4 + TCP_CSUM_OFFSET, 0, 2);
	if (!ip_parse(ip, len - ETH_HLEN, v4, &view) || view.payload != frame + l4)
		return;
	sum = csum_fold(ip_pseudo_sum(&view.src, &view.dst, view.proto, view.payload_len));
	memcpy(frame + l4 + TCP_CSUM_OFFSET, &sum, 2);
	checksum_complete(frame, l4 + view.payload_len, l4, TCP_CSUM_OFFSET, NULL, 0);
}

/* What is not compared: identification and header checksum of IPv4, PSH and the checksum of TCP. */
static void forget(uint8_t *frame)
{
	uint32_t l4 = headers(frame);

	if (l4 == ETH_HLEN + IP4_HLEN) {
		memset(frame + ETH_HLEN + 4, 0, 2);
		memset(frame + ETH_HLEN + IP4_CSUM, 0, 2);
	}
	frame[l4 + 13] &= (uint8_t)~TCP_PSH;
	memset(frame + l4 + TCP_CSUM_OFFSET, 0, 2);
}

static void require_same(const uint8_t *head, uint32_t head_len, const uint8_t *body, uint32_t body_len, uint8_t *sent)
{
	uint8_t mine[SEGMENT_HEAD_MAX];

	REQUIRE(load_be32(sent) == head_len + body_len, "a frame has the length that was sent");
	REQUIRE(memcmp(sent + 4 + head_len, body, body_len) == 0, "a frame has the payload that was sent");
	memcpy(mine, head, head_len);
	forget(mine);
	forget(sent + 4);
	REQUIRE(memcmp(sent + 4, mine, head_len) == 0, "a frame has the headers that were sent");
}

/* Compares a frame of the link with the bytes that were sent; returns how many of these it has taken. */
static size_t compare(const struct link_frame *f, uint8_t *sent)
{
	uint32_t head_len, at;
	struct segmenter s;
	size_t taken = 0;
	int32_t part;

	if (!f->gso_size) {
		REQUIRE(load_be32(sent) == f->len && memcmp(sent + 4, f->data, f->len) == 0, "a frame is what was sent");
		return 4 + f->len;
	}
	head_len = f->csum_start + (uint32_t)(f->data[f->csum_start + 12] >> 4) * 4;
	segment_begin(&s, f->data, head_len, ETH_HLEN, f->csum_start, false, f->len - head_len, f->gso_size);
	for (at = head_len; (part = segment_next(&s)) >= 0; at += (uint32_t)part) {
		require_same(s.head, head_len, f->data + at, (uint32_t)part, sent + taken);
		taken += 4 + head_len + (uint32_t)part;
	}
	return taken;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct counters counters = {0};
	struct link_frame f;
	struct link l;
	uint8_t *sent;
	uint32_t next = 0;
	size_t piece, taken = 0;
	int pair[2], rc = 0;

	if (len < 2)
		return 0;
	piece = (size_t)(data[0] & 127) * 16 + 1;
	sent = malloc(--len);
	REQUIRE(sent && socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0);
	memcpy(sent, data + 1, len);
	for (size_t at = 0;
	     data[0] & 128 && at + 4 + ETH_HLEN <= len && load_be32(sent + at) >= ETH_HLEN && load_be32(sent + at) <= len - at - 4;
	     at += 4 + load_be32(sent + at))
		correct(sent + at + 4, load_be32(sent + at), &next);
	REQUIRE(link_init(&l, NULL, &link_stream, pair[1], 0, false, &counters) == 0);
	for (size_t at = 0; at < len && rc != -EPROTO; at += piece) {
		REQUIRE(write(pair[0], sent + at, size_min(piece, len - at)) > 0);
		while ((rc = link_read(&l, &f)) == 0)
			taken += compare(&f, sent + taken);
		REQUIRE(rc == -EAGAIN || rc == -EPROTO, "a stream ends for its lengths only");
	}
	if (rc == -EAGAIN)
		REQUIRE(len - taken < 4 || load_be32(sent + taken) > len - taken - 4, "every whole frame was read");
	link_detach(&l);
	link_free(&l);
	close(pair[0]);
	close(pair[1]);
	free(sent);
	return 0;
}
