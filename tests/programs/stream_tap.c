/* stream_tap IFNAME SOCKET|FD: a virtual machine without the machine: a tap of this network namespace at the far end of passt's socket.
 *
 * Frames are those of the namespace's own kernel, each behind its length in 32 bits, big-endian. SOCKET is a path to connect to, again
 * and again when the other end closes, or after SIGUSR1; FD is an open socket. It prints "ready" when the first connection is made. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define FRAME_MAX 65535
#define BATCH_BYTES (512 * 1024)

static uint8_t in[BATCH_BYTES], out[BATCH_BYTES];
static size_t in_len, out_from, out_len;
static volatile sig_atomic_t leave;

static void on_signal(int number)
{
	leave = number;
}

static _Noreturn void die(const char *what)
{
	perror(what);
	exit(1);
}

static int open_tap(const char *name)
{
	struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

	strncpy(request.ifr_name, name, IFNAMSIZ - 1);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0)
		die("tap");
	return fd;
}

/* -1: nothing listens there. */
static int connected(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || strlen(path) >= sizeof(address.sun_path))
		die("socket");
	strcpy(address.sun_path, path);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	close(fd);
	return -1;
}

/* Frames of the kernel, as many as there are and fit. */
static void from_tap(int tap)
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

static void to_tap(int tap)
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
static void serve(int tap, int sock)
{
	in_len = out_len = out_from = 0;
	for (;;) {
		struct pollfd wait[2] = {{.fd = sock, .events = (short)(POLLIN | (out_len ? POLLOUT : 0))},
					 {.fd = out_len ? -1 : tap, .events = POLLIN}};
		ssize_t n;

		if (leave || (poll(wait, 2, -1) < 0 && errno == EINTR)) {
			leave = 0;
			return;
		}
		if (wait[0].revents & (POLLIN | POLLHUP | POLLERR)) {
			n = recv(sock, in + in_len, sizeof(in) - in_len, MSG_DONTWAIT);
			if (n == 0 || (n < 0 && errno != EAGAIN))
				return;
			in_len += n > 0 ? (size_t)n : 0;
			to_tap(tap);
		}
		if (!out_len)
			from_tap(tap);
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
	bool told = false, path = argc == 3 && strchr(argv[2], '/');
	int tap, sock;

	if (argc != 3)
		return 2;
	sigaction(SIGUSR1, &(struct sigaction){.sa_handler = on_signal}, NULL);
	tap = open_tap(argv[1]);
	do {
		sock = path ? connected(argv[2]) : atoi(argv[2]);
		if (sock < 0) {
			usleep(20000);
			continue;
		}
		if (!told)
			puts("ready"), fflush(stdout);
		told = true;
		serve(tap, sock);
		close(sock);
	} while (path);
	return 0;
}
