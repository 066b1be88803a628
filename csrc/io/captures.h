/* Purpose: all captures of a plane: the one that a thread writes (io/capture.h), and those of clients that come and go while it
 * runs.
 *
 * A client has a stream socket, to which records of a pcap file are written as they come: without a thread, since the sandbox allows
 * no new one, and without waiting. The frames that its socket has no room for are left out and counted.
 *
 * Thread: captures_frame() from any shard's, all others from that of shard 0.
 */
#ifndef PASTA_IO_CAPTURES_H
#define PASTA_IO_CAPTURES_H

#include <pthread.h>

#include "io/capture.h"

#define CAPTURE_CLIENTS_MAX 4
#define CAPTURE_CLIENT_TO_GUEST 0x80000000u /* in the original length of a client's record: the frame is for the guest */

struct capture_client {
	int fd; /* -1: a free place */
	bool failed;
	struct capture_choice choice;
	struct capture_counters counters;
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
};

void captures_init(struct captures *cs);
void captures_free(struct captures *cs);

/* From now on several threads may call captures_frame(). */
void captures_share(struct captures *cs);

/* As capture_frame(), for all captures. */
void captures_frame(struct captures *cs, enum capture_direction direction, const struct iovec *iov, int iovcnt,
		    const struct capture_offload *offload);

/* Begins a capture to a socket, which stays the caller's; the choice does not. first: is sent before any record. Returns its number, or -errno (-EBUSY: there are
 * CAPTURE_CLIENTS_MAX). */
int captures_attach(struct captures *cs, int fd, struct capture_choice choice, const void *first, uint32_t first_len);

/* Ends it. rest: gets what the socket has not taken of the last record. Returns its length. */
uint32_t captures_detach(struct captures *cs, uint32_t number, struct capture_counters *counters,
			 uint8_t rest[PCAP_RECORD_MAX_BYTES]);

#endif
