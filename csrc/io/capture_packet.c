/* How: a packet is never changed or copied before it is known to be taken. */
#include "io/capture_packet.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "io/sink.h"
#include "wire/offload.h"
#include "wire/udp.h"

int capture_choose(struct capture_choice *c, uint32_t snaplen, const struct packet_filter_insn *filter, uint32_t filter_len)
{
	*c = (struct capture_choice){.snaplen = snaplen && snaplen < PCAP_SNAPLEN_BYTES ? snaplen : PCAP_SNAPLEN_BYTES};
	if (!filter_len)
		return 0;
	if (!packet_filter_check(filter, filter_len))
		return -EINVAL;
	c->filter = malloc(filter_len * sizeof(*filter));
	if (!c->filter)
		return -ENOMEM;
	memcpy(c->filter, filter, filter_len * sizeof(*filter));
	return 0;
}

void capture_choice_free(struct capture_choice *c)
{
	free(c->filter);
	c->filter = NULL;
}

/* Puts each datagram of a segmentation offload frame. False: it is none, or its payload is not in one piece. */
static bool split_datagrams(const struct capture_packet *packet, const struct iovec *iov, int iovcnt, uint32_t size,
			    capture_put_fn *put, void *to)
{
	uint32_t head_len = (uint32_t)packet->csum_start + UDP_HLEN, linear = (uint32_t)iov[0].iov_len;
	uint32_t len = linear + (iovcnt > 1 ? (uint32_t)iov[1].iov_len : 0);
	struct iovec part[2];
	struct segmenter s;
	int32_t n;

	if (!packet->needs_csum || packet->csum_offset != UDP_CSUM_OFFSET || iovcnt > 2 || (iovcnt == 2 && linear != head_len) ||
	    !segment_udp(&s, iov[0].iov_base, linear, len, packet->csum_start, size))
		return false;
	part[0] = (struct iovec){s.head, s.head_len};
	part[1].iov_base = iovcnt == 2 ? iov[1].iov_base : (uint8_t *)iov[0].iov_base + head_len;
	while ((n = segment_next(&s)) >= 0) {
		part[1].iov_len = (size_t)n;
		put(to, packet, part, 2);
		part[1].iov_base = (uint8_t *)part[1].iov_base + n;
	}
	return true;
}

void capture_split(enum capture_direction direction, const struct iovec *iov, int iovcnt, const struct capture_offload *offload,
		   capture_put_fn *put, void *to)
{
	const struct capture_packet packet = {(uint64_t)clock_ns(CLOCK_REALTIME), direction, offload->needs_csum,
					      offload->csum_start, offload->csum_offset};

	if (!offload->udp_size || !split_datagrams(&packet, iov, iovcnt, offload->udp_size, put, to))
		put(to, &packet, iov, iovcnt);
}

bool capture_takes(const struct capture_choice *c, const struct iovec *iov, int iovcnt, struct pcap_frame *frame)
{
	uint32_t wanted = c->snaplen, matched;

	if (c->filter) {
		matched = packet_filter_run(c->filter, iov, iovcnt);
		if (!matched)
			return false;
		wanted = u32_min(matched, wanted);
	}
	frame->full_len = 0;
	for (int i = 0; i < iovcnt; i++)
		frame->full_len += (uint32_t)iov[i].iov_len;
	frame->len = u32_min(frame->full_len, wanted);
	return true;
}

void capture_gather(uint8_t *to, size_t len, const struct iovec *iov, int iovcnt)
{
	for (int i = 0; i < iovcnt && len; i++) {
		size_t part = size_min(iov[i].iov_len, len);

		if (part)
			memcpy(to, iov[i].iov_base, part);
		to += part;
		len -= part;
	}
}

void capture_complete_checksum(uint8_t *data, uint32_t len, uint16_t csum_start, uint16_t csum_offset)
{
	if ((uint32_t)csum_start + csum_offset + 2 <= len)
		checksum_complete(data, len, csum_start, csum_offset, NULL, 0);
}
