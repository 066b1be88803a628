/* Purpose: all captures of a plane: the one that a thread writes (io/capture.h), and those of clients that come and go while it
 * runs.
 *
 * A client has a stream socket, to which records of pcap or blocks of pcapng are written as they come: without a thread, since the
 * sandbox allows no new one, and without waiting. The frames that its socket has no room for are left out and counted.
 *
 * Thread: captures_frame() from any shard's, all others from that of shard 0.
 */
#ifndef PASTA_IO_CAPTURES_H
#define PASTA_IO_CAPTURES_H

#include <pthread.h>

#include "io/capture.h"

#define CAPTURE_CLIENTS_MAX 4
#define CAPTURE_CLIENT_TO_GUEST 0x80000000u /* in the original length of a record of pcap: the frame is for the guest */
/* What a client gets at a time: the end of a file and the beginning of the next, a frame with its name, and at last another end. */
#define CAPTURE_CLIENT_BYTES (PCAP_HEADER_MAX_BYTES + PCAP_NAME_BLOCK_MAX_BYTES + PCAP_RECORD_MAX_BYTES + 2 * PCAP_STATISTICS_BYTES)

struct capture_client {
	int fd; /* -1: a free place */
	bool failed;
	struct capture_choice choice;
	struct capture_counters counters;
	uint64_t seen;
	const struct capture_names *names;
	struct capture_told *told; /* in this file; with pcapng, else NULL */
	uint64_t file_bytes;       /* after which a new file begins; 0: never */
	uint64_t at;               /* bytes in the present file */
	bool used;                 /* it has a frame */
	/* The record that is being sent. A socket may take a part of one. */
	uint8_t *record;
	uint32_t len, sent;
};

struct captures {
	pthread_mutex_t lock;
	bool shared;
	struct capture *file; /* NULL: none */
	struct capture_client client[CAPTURE_CLIENTS_MAX];
	uint32_t clients;
	struct capture_names names;
	uint32_t naming; /* captures that have a place for names */
};

void captures_init(struct captures *cs);
void captures_free(struct captures *cs);

/* From now on several threads may call captures_frame(). */
void captures_share(struct captures *cs);

/* As capture_frame(), for all captures. */
void captures_frame(struct captures *cs, enum capture_direction direction, const struct iovec *iov, int iovcnt,
		    const struct capture_offload *offload);

/* One more capture has a place for names. 0 or -ENOMEM. */
int captures_want_names(struct captures *cs);
/* One less. */
void captures_end_names(struct captures *cs);
/* The name of an address, as plain text; nothing happens unless a capture has a place for it. */
void captures_learn(struct captures *cs, const struct addr *a, const char *name, uint32_t len);

/* Begins a capture to a socket, which stays the caller's; the choice does not. file_bytes: with pcapng, a file that would be longer
 * ends, and another one comes behind it; 0: there is one. first: is sent before any record. Returns its number, or -errno (-EBUSY:
 * there are CAPTURE_CLIENTS_MAX). */
int captures_attach(struct captures *cs, int fd, struct capture_choice choice, bool pcapng, uint64_t file_bytes, const void *first,
		    uint32_t first_len);

/* Ends it. rest: gets what the socket has not taken of the last record, and the end of a pcapng file. Returns its length. */
uint32_t captures_detach(struct captures *cs, uint32_t number, struct capture_counters *counters,
			 uint8_t rest[CAPTURE_CLIENT_BYTES]);

#endif
