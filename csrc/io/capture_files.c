/* How: the descriptors are open from the start, because the sandbox lets nothing be opened. A file that is due again is truncated.
 *
 * Invariant: between two calls, also after an error, a file ends with a whole record, header or end.
 */
#include "io/capture_files.h"

#include <errno.h>
#include <unistd.h>

int capture_files_open(struct capture_files *f)
{
	uint8_t header[PCAP_HEADER_MAX_BYTES];
	int error = sink_open(&f->sink, f->fds[0]);

	f->at = pcap_file_header(f->pcapng, f->snaplen, header);
	return error ? error : sink_write_here(&f->sink, header, f->at);
}

uint64_t capture_files_room(const struct capture_files *f)
{
	uint64_t end = f->at + (f->pcapng ? PCAP_STATISTICS_BYTES : 0);

	if (!f->limit_bytes)
		return UINT64_MAX;
	return end < f->limit_bytes ? f->limit_bytes - end : 0;
}

void capture_files_wrote(struct capture_files *f, size_t len)
{
	f->at += len;
	f->used = f->used || len;
}

static int write_whole(struct capture_files *f, const uint8_t *data, size_t len, const _Atomic bool *stop)
{
	size_t done;
	int error = sink_write(&f->sink, data, len, &done, stop);

	if (error)
		sink_cut(&f->sink, done);
	else
		f->at += len;
	return error;
}

int capture_files_end(struct capture_files *f, const struct pcap_statistics *statistics, const _Atomic bool *stop)
{
	uint8_t end[PCAP_STATISTICS_BYTES];

	return write_whole(f, end, pcap_file_end(f->pcapng, statistics, end), stop);
}

int capture_files_next(struct capture_files *f, const struct pcap_statistics *statistics, const _Atomic bool *stop)
{
	uint8_t header[PCAP_HEADER_MAX_BYTES];
	int error = capture_files_end(f, statistics, stop);

	if (error)
		return error;
	f->now = (f->now + 1) % f->count;
	f->at = 0;
	f->used = false;
	f->sink.fd = f->fds[f->now]; /* of the same kind: sink_open() would take a system call that the sandbox forbids */
	if (ftruncate(f->sink.fd, 0) < 0 || lseek(f->sink.fd, 0, SEEK_SET) < 0)
		return errno;
	return write_whole(f, header, pcap_file_header(f->pcapng, f->snaplen, header), stop);
}
