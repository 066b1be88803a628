/* Purpose: run csrc/io/capture.c without Python, under ThreadSanitizer or to measure the loop's side.
 *
 * usage: capture_stress FILE pcap|pcapng FRAME_BYTES COUNT [PAUSE_EVERY]
 * FRAME_BYTES 0: sizes vary between 60 and 65550 bytes. PAUSE_EVERY n: a pause of 15 ms after every n frames.
 * At the first error it feeds no more frames, and prints "stops" on standard error before it waits for the writer.
 * Prints: frames dropped seconds-in-capture_frame seconds-with-stop error
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "io/capture.h"

#define FRAME_MAX 65550

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	static uint8_t frame[FRAME_MAX];
	unsigned long size, count, pause_every, i, len;
	struct capture_counters counters;
	struct capture *c;
	double start, fed, paused = 0;
	int fd, error, first = 0;

	if (argc < 5)
		return 2;
	size = strtoul(argv[3], NULL, 10);
	count = strtoul(argv[4], NULL, 10);
	pause_every = argc > 5 ? strtoul(argv[5], NULL, 10) : 0;
	fd = open(argv[1], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || size > FRAME_MAX)
		return 2;
	error = capture_open(&c, &(struct capture_config){.fds = &fd, .files = 1, .pcapng = !strcmp(argv[2], "pcapng")});
	if (error) {
		fprintf(stderr, "capture_open: %s\n", strerror(-error));
		return 1;
	}
	memset(frame, 0x5a, sizeof(frame));
	start = now_s();
	for (i = 0; i < count; i++) {
		len = size ? size : 60 + i * 7919 % (FRAME_MAX - 59);
		struct iovec iov[2] = {{frame, 54}, {frame + 54, len - 54}};

		capture_frame(c, i & 1 ? CAPTURE_TO_GUEST : CAPTURE_FROM_GUEST, iov, 2, &(struct capture_offload){true, 34, 16, 0});
		if ((first = capture_error(c))) {
			fputs("stops\n", stderr);
			break;
		}
		if (pause_every && i % pause_every == pause_every - 1) {
			paused -= now_s();
			usleep(15000);
			paused += now_s();
		}
	}
	fed = now_s() - start - paused;
	error = capture_stop(c, &counters);
	if (first)
		error = first;
	printf("%llu %llu %.6f %.6f %d\n", (unsigned long long)counters.frames, (unsigned long long)counters.dropped, fed,
	       now_s() - start - paused, error);
	close(fd);
	return 0;
}
