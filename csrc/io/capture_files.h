/* Purpose: where a capture is written: one descriptor of any kind, or a ring of files that are written in turn. */
#ifndef PASTA_IO_CAPTURE_FILES_H
#define PASTA_IO_CAPTURE_FILES_H

#include "io/pcap_format.h"
#include "io/sink.h"

#define CAPTURE_FILES_MAX 64

struct capture_files {
	struct sink sink;           /* the present file */
	int fds[CAPTURE_FILES_MAX]; /* regular files, if there are several */
	uint32_t count, now;        /* how many; which is the present one */
	uint64_t limit_bytes;       /* of each; 0: none */
	uint64_t at;                /* bytes in the present one */
	bool used;                  /* it has a record */
	bool pcapng;
	uint32_t snaplen;
};

/* Writes the header of the first file. All other members are set, but for sink, now, at and used. Returns 0 or -errno. */
int capture_files_open(struct capture_files *f);

/* How many bytes of records the present file still takes. */
uint64_t capture_files_room(const struct capture_files *f);

/* Notes that len bytes of records are in the file. */
void capture_files_wrote(struct capture_files *f, size_t len);

/* Writes the end of the file. Returns 0 or an errno value, as sink_write(). */
int capture_files_end(struct capture_files *f, const struct pcap_statistics *statistics, const _Atomic bool *stop);

/* The same, and goes on with the next file of the ring, which is emptied. */
int capture_files_next(struct capture_files *f, const struct pcap_statistics *statistics, const _Atomic bool *stop);

#endif
