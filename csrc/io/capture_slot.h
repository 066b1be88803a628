/* Purpose: what stands in the place of a record's first bytes while it waits in the ring of io/capture.c. Of a frame: all that its
 * record says beside bytes. Of another block of pcapng, which is complete: the bytes whose place it takes.
 */
#ifndef PASTA_IO_CAPTURE_SLOT_H
#define PASTA_IO_CAPTURE_SLOT_H

#include <string.h>

#include "io/capture_packet.h"

struct capture_slot {
	union {
		uint64_t time_ns;
		uint8_t second[8]; /* with is_block: its second 8 bytes */
	};
	uint32_t len : 19; /* of the frame, or the block */
	uint32_t needs_csum : 1;
	uint32_t to_guest : 1;
	uint32_t skip : 1; /* the rest of the ring is skipped */
	uint32_t cut : 1;
	uint32_t is_block : 1;
	uint32_t comment_len : 8;
	union {
		struct {
			uint16_t csum_start, csum_offset; /* with needs_csum */
		};
		uint32_t full_len; /* with cut */
		uint32_t type;     /* with is_block */
	};
};

_Static_assert(PCAP_SNAPLEN_BYTES < 1 << 19 && PCAP_NAME_MAX < 1 << 8, "they fit into their bits");
_Static_assert(sizeof(struct capture_slot) <= PCAP_FRAME_OFFSET_MIN, "a slot fits into the place of the header");

static inline struct capture_slot slot_of(const struct capture_packet *packet, const struct pcap_frame *frame)
{
	struct capture_slot slot = {.time_ns = packet->time_ns,
				    .len = frame->len & 0x7ffff,
				    .to_guest = packet->direction == CAPTURE_TO_GUEST,
				    .comment_len = (uint8_t)frame->comment_len};

	if (frame->len < frame->full_len) {
		slot.cut = true;
		slot.full_len = frame->full_len;
	} else if (packet->needs_csum) {
		slot.needs_csum = true;
		slot.csum_start = packet->csum_start;
		slot.csum_offset = packet->csum_offset;
	}
	return slot;
}

/* Puts a finished block of more than the bytes of a slot at its place in the ring. */
static inline void slot_put_block(uint8_t *at, const uint8_t *block, size_t size)
{
	struct capture_slot slot = {.len = (uint32_t)size & 0x7ffff, .is_block = true};

	memcpy(&slot.type, block, sizeof(slot.type));
	memcpy(slot.second, block + 8, sizeof(slot.second));
	memcpy(at, &slot, sizeof(slot));
	memcpy(at + sizeof(slot), block + sizeof(slot), size - sizeof(slot));
}

static inline struct capture_slot slot_at(const uint8_t *record)
{
	struct capture_slot slot;

	memcpy(&slot, record, sizeof(slot));
	return slot;
}

static inline size_t slot_size(const struct capture_slot *slot, bool pcapng)
{
	return slot->is_block ? slot->len : pcap_record_size(pcapng, slot->len, slot->comment_len);
}

/* Turns the slot at record into bytes of the file. */
static inline void slot_finish(const struct capture_slot *slot, bool pcapng, uint8_t *record)
{
	const struct pcap_frame frame = {.time_ns = slot->time_ns,
					 .len = slot->len,
					 .full_len = slot->cut ? slot->full_len : slot->len,
					 .direction = slot->to_guest ? CAPTURE_TO_GUEST : CAPTURE_FROM_GUEST,
					 .comment_len = slot->comment_len};
	const uint32_t first[2] = {slot->type, slot->len};

	if (slot->is_block) {
		memcpy(record, first, sizeof(first));
		memcpy(record + sizeof(first), slot->second, sizeof(slot->second));
		return;
	}
	if (slot->needs_csum)
		capture_complete_checksum(record + pcap_frame_offset(pcapng), frame.len, slot->csum_start, slot->csum_offset);
	pcap_record_finish(pcapng, record, &frame);
}

#endif
