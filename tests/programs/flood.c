/* Sends frames as fast as it is told, through one of two interfaces.
 *
 *   flood RATE IF0 IF1 < frames      frames: 2 bytes of length, big-endian, then the frame; first all of them, then an empty one;
 *                                    then commands, a byte each: '0' or '1' sends on IF0 or IF1, '-' pauses; EOF ends
 *
 * RATE is in frames a second, sent in bursts each millisecond, over and over from the first to the last frame. A burst that is
 * late is made up for as long as it is within 10 ms. At the end prints {"sent": [ON_IF0, ON_IF1], "refused": N}.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BURST_MAX = 1024, LATE_NS = 10000000 };

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "flood: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static void read_all(void *to, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = read(0, (char *)to + done, len - done);
		if (n <= 0)
			die("frames");
		done += (size_t)n;
	}
}

static struct iovec *frames;
static size_t frame_count;

static void read_frames(void)
{
	uint8_t head[2];
	size_t len, space = 0;
	while (read_all(head, 2), (len = (size_t)head[0] << 8 | head[1])) {
		if (frame_count == space && !(frames = realloc(frames, (space = space * 2 + 1024) * sizeof *frames)))
			die("memory");
		frames[frame_count].iov_base = malloc(len);
		frames[frame_count].iov_len = len;
		read_all(frames[frame_count++].iov_base, len);
	}
}

static int packet_socket(const char *name)
{
	struct sockaddr_ll ll = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(name)};
	int fd = socket(AF_PACKET, SOCK_RAW, 0), size = 4 << 20;
	if (fd < 0 || bind(fd, (struct sockaddr *)&ll, sizeof ll) || setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size))
		die(name);
	return fd;
}

int main(int argc, char **argv)
{
	static struct mmsghdr messages[BURST_MAX];
	unsigned long sent[2] = {0, 0}, refused = 0;
	int fd[2], active = -1;
	size_t next = 0;
	double rate;
	int64_t done_ns = 0;

	if (argc != 4)
		return 2;
	rate = atof(argv[1]);
	fd[0] = packet_socket(argv[2]);
	fd[1] = packet_socket(argv[3]);
	read_frames();
	for (;;) {
		struct pollfd p = {.fd = 0, .events = POLLIN};
		char command;
		if (poll(&p, 1, active < 0 ? -1 : 1) > 0) {
			if (read(0, &command, 1) <= 0)
				break;
			active = command == '-' ? -1 : command - '0';
			done_ns = now_ns();
			continue;
		}
		int64_t now = now_ns(), due;
		if (now - done_ns > LATE_NS)
			done_ns = now - LATE_NS;
		due = (int64_t)((double)(now - done_ns) * rate / 1e9);
		if (due > BURST_MAX)
			due = BURST_MAX;
		done_ns += (int64_t)((double)due * 1e9 / rate);
		for (int i = 0; i < due; i++) {
			messages[i].msg_hdr = (struct msghdr){.msg_iov = &frames[next], .msg_iovlen = 1};
			next = (next + 1) % frame_count;
		}
		for (int i = 0; i < due;) {
			int n = sendmmsg(fd[active], messages + i, (unsigned)(due - i), 0);
			if (n < 0 && errno != ENOBUFS && errno != EAGAIN)
				die("sendmmsg");
			refused += n < 0;
			sent[active] += n < 0 ? 0 : (unsigned)n;
			i += n < 0 ? 1 : n;
		}
	}
	printf("{\"sent\": [%lu, %lu], \"refused\": %lu}\n", sent[0], sent[1], refused);
	return 0;
}
