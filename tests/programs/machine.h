/* What stream_tap.c and vhost_tap.c have in common: a tap, and a socket of passt at IFNAME and SOCKET|FD.
 *
 * SOCKET is a path to connect to, again and again when the other end closes, or after SIGUSR1; FD is an open socket. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static volatile sig_atomic_t leave; /* this connection */

static void on_signal(int number)
{
	leave = number;
}

static _Noreturn void die(const char *what)
{
	perror(what);
	exit(1);
}

/* flags: beside those of a tap without a header of the kernel's. */
static int open_tap(const char *name, int flags)
{
	struct ifreq request = {.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | flags)};
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

	strncpy(request.ifr_name, name, IFNAMSIZ - 1);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0)
		die("tap");
	return fd;
}

/* Prints "ready", once. */
static void say_ready(void)
{
	static bool said;

	if (!said)
		puts("ready"), fflush(stdout);
	said = true;
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

/* Calls serve() for each connection: it returns when the other end closes, or `leave` is set. */
static void serve_each(const char *socket_or_fd, void (*serve)(int sock))
{
	bool path = strchr(socket_or_fd, '/');

	sigaction(SIGUSR1, &(struct sigaction){.sa_handler = on_signal}, NULL);
	do {
		int sock = path ? connected(socket_or_fd) : atoi(socket_or_fd);

		if (sock < 0) {
			usleep(20000);
			continue;
		}
		serve(sock);
		leave = 0;
		close(sock);
	} while (path);
}
