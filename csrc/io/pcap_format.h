/* Purpose: the bytes of a capture file, pcap or pcapng, in native byte order: readers know it from the magic number. Pure.
 *
 * How: a record is built in place. The caller puts the frame at pcap_frame_offset() in a buffer of pcap_record_size() bytes, its
 * comment at pcap_comment_offset(), and pcap_record_finish() writes the bytes around them.
 */
#ifndef PASTA_IO_PCAP_FORMAT_H
#define PASTA_IO_PCAP_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"

#define PCAP_SNAPLEN_BYTES 262144u
#define PCAP_HEADER_MAX_BYTES 128
#define PCAP_STATISTICS_BYTES 64
#define PCAP_NAME_MAX 253                                /* characters of a name without a final dot (RFC 1035, 2.3.4) */
#define PCAP_NAME_BLOCK_MAX_BYTES 296                    /* of pcap_name_block() */
#define PCAP_RECORD_MAX_BYTES (PCAP_SNAPLEN_BYTES + 304) /* of a frame with a comment of PCAP_NAME_MAX */
#define PCAP_FRAME_OFFSET_MIN 16                         /* bytes before the frame in a record of either format, at least */

enum capture_direction { CAPTURE_FROM_GUEST, CAPTURE_TO_GUEST };

struct pcap_frame {
	uint64_t time_ns;                 /* since 1970 */
	uint32_t len;                     /* in the record */
	uint32_t full_len;                /* on the link */
	enum capture_direction direction; /* in pcapng only, as the guest's interface sees it: from the guest is outbound */
	uint32_t comment_len;             /* in pcapng only; 0: there is none */
};

struct pcap_statistics {
	uint64_t time_ns;
	uint64_t seen;    /* frames that crossed the link */
	uint64_t matched; /* those that the filter took */
	uint64_t dropped; /* those of them that are not in the file, nor on the way to it */
};

/* Writes the header of the file. snaplen: the longest record. Returns its length. */
size_t pcap_file_header(bool pcapng, uint32_t snaplen, uint8_t out[PCAP_HEADER_MAX_BYTES]);

/* Writes what the end of a file says about all frames. Returns its length; 0: the format has nothing like that (pcap). */
size_t pcap_file_end(bool pcapng, const struct pcap_statistics *statistics, uint8_t out[PCAP_STATISTICS_BYTES]);

/* Writes a block of pcapng that tells the name of an address. len: PCAP_NAME_MAX at most. Returns its length. */
size_t pcap_name_block(const struct addr *a, const char *name, uint32_t len, uint8_t out[PCAP_NAME_BLOCK_MAX_BYTES]);

size_t pcap_frame_offset(bool pcapng);
/* Of pcapng, with a comment. */
size_t pcap_comment_offset(uint32_t frame_len);
/* comment_len: 0 for pcap. */
size_t pcap_record_size(bool pcapng, uint32_t frame_len, uint32_t comment_len);
void pcap_record_finish(bool pcapng, uint8_t *record, const struct pcap_frame *frame);
/* The size of a finished record or block. *frame_len: of the frame in it, or -1 for a block that has none. */
size_t pcap_finished_size(bool pcapng, const uint8_t *record, int64_t *frame_len);

#endif
