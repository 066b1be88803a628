/* stream_tap IFNAME SOCKET|FD: a virtual machine without the machine: a tap of this network namespace at the far end of passt's socket.
 *
 * Frames are those of the namespace's own kernel, each behind its length in 32 bits, big-endian. SOCKET|FD: machine.h. It prints
 * "ready" when the first connection is made. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <stdint.h>

#include "machine.h"

#define FRAME_MAX 65535
#define BATCH_BYTES (512 * 1024)

static uint8_t in[BATCH_BYTES], out[BATCH_BYTES];
static size_t in_len, out_from, out_len;
static int tap;

/* Frames of the kernel, as many as there are and fit. */
static void from_tap(void)
{
	while (out_len + 4 + FRAME_MAX <= sizeof(out)) {
		ssize_t n = read(tap, out + out_len + 4, FRAME_MAX);
		uint32_t length = htonl((uint32_t)n);

		if (n <= 0)
			break;
		memcpy(out + out_len, &length, 4);
		out_len += 4 + (size_t)n;
	}
}

static void to_tap(void)
{
	size_t at = 0;
	uint32_t length;

	while (in_len - at >= 4) {
		memcpy(&length, in + at, 4);
		length = ntohl(length);
		if (length < 14 || length > FRAME_MAX)
			errno = EPROTO, die("length");
		if (in_len - at - 4 < length)
			break;
		if (write(tap, in + at + 4, length) < 0 && errno != EAGAIN && errno != EIO)
			die("write"); /* EIO: the interface is down */
		at += 4 + length;
	}
	memmove(in, in + at, in_len - at);
	in_len -= at;
}

/* Serves one connection until the other end closes. */
static void serve(int sock)
{
	say_ready();
	in_len = out_len = out_from = 0;
	for (;;) {
		struct pollfd wait[2] = {{.fd = sock, .events = (short)(POLLIN | (out_len ? POLLOUT : 0))},
					 {.fd = out_len ? -1 : tap, .events = POLLIN}};
		ssize_t n;

		if (leave || (poll(wait, 2, -1) < 0 && errno == EINTR))
			return;
		if (wait[0].revents & (POLLIN | POLLHUP | POLLERR)) {
			n = recv(sock, in + in_len, sizeof(in) - in_len, MSG_DONTWAIT);
			if (n == 0 || (n < 0 && errno != EAGAIN))
				return;
			in_len += n > 0 ? (size_t)n : 0;
			to_tap();
		}
		if (!out_len)
			from_tap();
		if (!out_len)
			continue;
		n = send(sock, out + out_from, out_len - out_from, MSG_DONTWAIT | MSG_NOSIGNAL);
		out_from += n > 0 ? (size_t)n : 0;
		if (out_from == out_len)
			out_from = out_len = 0;
	}
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	tap = open_tap(argv[1], 0);
	serve_each(argv[2], serve);
	return 0;
}
