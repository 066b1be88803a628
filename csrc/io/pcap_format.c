/* How: pcap is that of draft-ietf-opsawg-pcap, with the magic number for nanoseconds. pcapng is that of draft-ietf-opsawg-pcapng,
 * with one section, one interface, one enhanced packet block a frame, a name resolution block before a frame whose comment is a name,
 * and an interface statistics block at the end.
 *
 * Invariant: the size of a record depends only on the lengths of its frame and comment.
 */
#include "io/pcap_format.h"

#include <string.h>

#define PCAP_MAGIC_NS 0xa1b23c4du /* draft-ietf-opsawg-pcap, 4 */
#define LINKTYPE_ETHERNET 1
#define NS_PER_S 1000000000u

/* draft-ietf-opsawg-pcapng, sections 3.5, 4.1 to 4.3, 4.5 and 4.6 */
#define OPT_COMMENT 1
#define SHB_TYPE 0x0a0d0d0au
#define SHB_BYTE_ORDER 0x1a2b3c4du
#define SHB_USERAPPL 4
#define IDB_TYPE 1
#define IDB_TSRESOL 9
#define NRB_TYPE 4
#define NRB_RECORD_IPV4 1
#define NRB_RECORD_IPV6 2
#define ISB_TYPE 5
#define ISB_IFRECV 4
#define ISB_IFDROP 5
#define ISB_FILTERACCEPT 6
#define EPB_TYPE 6
#define EPB_FLAGS 2
#define EPB_FLAG_INBOUND 1u
#define EPB_FLAG_OUTBOUND 2u

struct pcap_file {
	uint32_t magic;
	uint16_t major, minor;
	uint32_t reserved1, reserved2;
	uint32_t snaplen;
	uint32_t linktype;
};

struct pcap_record {
	uint32_t seconds, nanoseconds;
	uint32_t captured_len, original_len;
};

struct ng_option {
	uint16_t code, len;
};

struct ng_head {
	uint32_t shb_type, shb_len;
	uint32_t byte_order;
	uint16_t major, minor;
	uint32_t section_len[2]; /* all ones: unknown */
	struct ng_option userappl;
	char userappl_text[8];
	struct ng_option shb_end;
	uint32_t shb_len_again;

	uint32_t idb_type, idb_len;
	uint16_t linktype, reserved;
	uint32_t snaplen;
	struct ng_option tsresol;
	uint8_t tsresol_exponent, tsresol_pad[3];
	struct ng_option idb_end;
	uint32_t idb_len_again;
};

#define SHB_BYTES offsetof(struct ng_head, idb_type)
#define IDB_BYTES (sizeof(struct ng_head) - SHB_BYTES)

struct ng_packet {
	uint32_t type, block_len;
	uint32_t interface;
	uint32_t time_high, time_low;
	uint32_t captured_len, original_len;
};

struct ng_packet_end {
	struct ng_option flags;
	uint32_t flags_value;
	struct ng_option end;
	uint32_t block_len_again;
};

/* Before the address and the name with a zero; behind them the end of the records, which is zero, and the length again. */
struct ng_name {
	uint32_t type, block_len;
	uint16_t record, record_len;
};

#define NG_NAME_END_BYTES 8

/* Its counters of 64 bits are not aligned. */
struct ng_statistics {
	uint32_t type, block_len;
	uint32_t interface;
	uint32_t time_high, time_low;
	struct ng_option ifrecv;
	uint8_t seen[8];
	struct ng_option ifdrop;
	uint8_t dropped[8];
	struct ng_option filteraccept;
	uint8_t matched[8];
	struct ng_option end;
	uint32_t block_len_again;
};

_Static_assert(sizeof(struct pcap_file) == 24, "pcap file header");
_Static_assert(sizeof(struct pcap_record) == 16, "pcap record header");
_Static_assert(sizeof(struct ng_head) == 44 + 32, "pcapng section and interface");
_Static_assert(sizeof(struct ng_head) <= PCAP_HEADER_MAX_BYTES, "room for the header");
_Static_assert(sizeof(struct ng_packet) == 28 && sizeof(struct ng_packet_end) == 16, "pcapng packet");
_Static_assert(sizeof(struct ng_statistics) == 64 && sizeof(struct ng_statistics) <= PCAP_STATISTICS_BYTES, "pcapng statistics");
_Static_assert(sizeof(struct ng_name) == 12, "pcapng name");
_Static_assert(sizeof(struct ng_name) + 16 + PCAP_NAME_MAX + 4 + NG_NAME_END_BYTES <= PCAP_NAME_BLOCK_MAX_BYTES, "room for a name");
_Static_assert(PCAP_SNAPLEN_BYTES % 4 == 0 &&
		       sizeof(struct ng_packet) + sizeof(struct ng_packet_end) + sizeof(struct ng_option) + PCAP_NAME_MAX + 3 <=
			       PCAP_RECORD_MAX_BYTES - PCAP_SNAPLEN_BYTES,
	       "room for a frame and its comment");
_Static_assert(PCAP_FRAME_OFFSET_MIN <= sizeof(struct pcap_record), "room before the frame");

static uint32_t pad4(uint32_t len)
{
	return (len + 3) & ~3u;
}

size_t pcap_file_header(bool pcapng, uint32_t snaplen, uint8_t out[PCAP_HEADER_MAX_BYTES])
{
	const struct pcap_file file = {
		.magic = PCAP_MAGIC_NS,
		.major = 2,
		.minor = 4,
		.snaplen = snaplen,
		.linktype = LINKTYPE_ETHERNET,
	};
	const struct ng_head head = {
		.shb_type = SHB_TYPE,
		.shb_len = SHB_BYTES,
		.byte_order = SHB_BYTE_ORDER,
		.major = 1,
		.section_len = {UINT32_MAX, UINT32_MAX},
		.userappl = {SHB_USERAPPL, 8},
		.userappl_text = {'p', 'a', 's', 't', 'a', '-', 'p', 'y'},
		.shb_len_again = SHB_BYTES,
		.idb_type = IDB_TYPE,
		.idb_len = IDB_BYTES,
		.linktype = LINKTYPE_ETHERNET,
		.snaplen = snaplen,
		.tsresol = {IDB_TSRESOL, 1},
		.tsresol_exponent = 9,
		.idb_len_again = IDB_BYTES,
	};

	if (!pcapng) {
		memcpy(out, &file, sizeof(file));
		return sizeof(file);
	}
	memcpy(out, &head, sizeof(head));
	return sizeof(head);
}

size_t pcap_file_end(bool pcapng, const struct pcap_statistics *statistics, uint8_t out[PCAP_STATISTICS_BYTES])
{
	struct ng_statistics block = {
		.type = ISB_TYPE,
		.block_len = sizeof(block),
		.time_high = (uint32_t)(statistics->time_ns >> 32),
		.time_low = (uint32_t)statistics->time_ns,
		.ifrecv = {ISB_IFRECV, 8},
		.ifdrop = {ISB_IFDROP, 8},
		.filteraccept = {ISB_FILTERACCEPT, 8},
		.block_len_again = sizeof(block),
	};

	if (!pcapng)
		return 0;
	memcpy(block.seen, &statistics->seen, 8);
	memcpy(block.dropped, &statistics->dropped, 8);
	memcpy(block.matched, &statistics->matched, 8);
	memcpy(out, &block, sizeof(block));
	return sizeof(block);
}

size_t pcap_frame_offset(bool pcapng)
{
	return pcapng ? sizeof(struct ng_packet) : sizeof(struct pcap_record);
}

size_t pcap_comment_offset(uint32_t frame_len)
{
	return sizeof(struct ng_packet) + pad4(frame_len) + sizeof(struct ng_option);
}

size_t pcap_record_size(bool pcapng, uint32_t frame_len, uint32_t comment_len)
{
	if (!pcapng)
		return sizeof(struct pcap_record) + frame_len;
	return sizeof(struct ng_packet) + pad4(frame_len) + (comment_len ? sizeof(struct ng_option) + pad4(comment_len) : 0) +
	       sizeof(struct ng_packet_end);
}

size_t pcap_name_block(const struct addr *a, const char *name, uint32_t len, uint8_t out[PCAP_NAME_BLOCK_MAX_BYTES])
{
	bool v4 = addr_is_v4(a);
	uint32_t address_len = v4 ? 4 : 16, record_len = address_len + len + 1;
	uint32_t size = (uint32_t)sizeof(struct ng_name) + pad4(record_len) + NG_NAME_END_BYTES;
	const struct ng_name head = {NRB_TYPE, size, v4 ? NRB_RECORD_IPV4 : NRB_RECORD_IPV6, (uint16_t)record_len};

	memset(out, 0, size);
	memcpy(out, &head, sizeof(head));
	memcpy(out + sizeof(head), a->b + sizeof(a->b) - address_len, address_len);
	memcpy(out + sizeof(head) + address_len, name, len);
	memcpy(out + size - sizeof(size), &size, sizeof(size));
	return size;
}

static void ng_record_finish(uint8_t *record, const struct pcap_frame *frame)
{
	uint32_t size = (uint32_t)pcap_record_size(true, frame->len, frame->comment_len);
	const struct ng_option comment = {OPT_COMMENT, (uint16_t)frame->comment_len};
	const struct ng_packet packet = {
		.type = EPB_TYPE,
		.block_len = size,
		.time_high = (uint32_t)(frame->time_ns >> 32),
		.time_low = (uint32_t)frame->time_ns,
		.captured_len = frame->len,
		.original_len = frame->full_len,
	};
	const struct ng_packet_end end = {
		.flags = {EPB_FLAGS, 4},
		.flags_value = frame->direction == CAPTURE_FROM_GUEST ? EPB_FLAG_OUTBOUND : EPB_FLAG_INBOUND,
		.block_len_again = size,
	};

	memcpy(record, &packet, sizeof(packet));
	memset(record + sizeof(packet) + frame->len, 0, pad4(frame->len) - frame->len);
	if (frame->comment_len) {
		uint8_t *text = record + pcap_comment_offset(frame->len);

		memcpy(text - sizeof(comment), &comment, sizeof(comment));
		memset(text + frame->comment_len, 0, pad4(frame->comment_len) - frame->comment_len);
	}
	memcpy(record + size - sizeof(end), &end, sizeof(end));
}

void pcap_record_finish(bool pcapng, uint8_t *record, const struct pcap_frame *frame)
{
	const struct pcap_record header = {
		.seconds = (uint32_t)(frame->time_ns / NS_PER_S),
		.nanoseconds = (uint32_t)(frame->time_ns % NS_PER_S),
		.captured_len = frame->len,
		.original_len = frame->full_len,
	};

	if (pcapng)
		ng_record_finish(record, frame);
	else
		memcpy(record, &header, sizeof(header));
}

size_t pcap_finished_size(bool pcapng, const uint8_t *record, int64_t *frame_len)
{
	struct pcap_record header;
	struct ng_packet packet;

	if (!pcapng) {
		memcpy(&header, record, sizeof(header));
		*frame_len = header.captured_len;
		return sizeof(header) + header.captured_len;
	}
	memcpy(&packet, record, offsetof(struct ng_packet, interface));
	*frame_len = -1;
	if (packet.type == EPB_TYPE) {
		memcpy(&packet, record, sizeof(packet));
		*frame_len = packet.captured_len;
	}
	return packet.block_len;
}
