/* `uring ADDRESS PORT`: connects through io_uring(7), which no filter on system calls sees. Prints "connected" or the error. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static int say(int error)
{
	puts(error ? strerror(error) : "connected");
	return 0;
}

int main(int argc, char **argv)
{
	struct io_uring_params p = {0};
	struct sockaddr_in to = {.sin_family = AF_INET};
	struct io_uring_sqe *sqe;
	char *ring, *done;
	int fd, sock;

	if (argc != 3 || inet_pton(AF_INET, argv[1], &to.sin_addr) != 1)
		return 2;
	to.sin_port = htons((unsigned short)atoi(argv[2]));
	sock = socket(AF_INET, SOCK_STREAM, 0);
	fd = (int)syscall(SYS_io_uring_setup, 1, &p);
	if (fd < 0 || sock < 0)
		return say(errno);
	ring = mmap(NULL, p.sq_off.array + 64, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_SQ_RING);
	done = mmap(NULL, p.cq_off.cqes + 64, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_CQ_RING);
	sqe = mmap(NULL, sizeof(*sqe), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, IORING_OFF_SQES);
	if (ring == MAP_FAILED || done == MAP_FAILED || (void *)sqe == MAP_FAILED)
		return say(errno);
	*sqe = (struct io_uring_sqe){.opcode = IORING_OP_CONNECT, .fd = sock, .addr = (unsigned long)&to, .off = sizeof(to)};
	*(unsigned *)(ring + p.sq_off.array) = 0;
	__atomic_store_n((unsigned *)(ring + p.sq_off.tail), 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
		return say(errno);
	return say(-((struct io_uring_cqe *)(done + p.cq_off.cqes))->res);
}
