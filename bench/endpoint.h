/* What the parts of the endpoint program share; see endpoint.c. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

struct job {
	struct sockaddr_storage addr;
	socklen_t addr_bytes;
	int64_t warm_ns, run_ns;
	long a, b, c;
};

_Noreturn void die(const char *what);
int64_t now_ns(void);
void sleep_until(int64_t when_ns);
void say_ready(void);
/* How long the socket's calls may take. */
void patience(int fd, long ms);
void no_delay(int fd);
/* Of the given type: to the job's address, and at it (listening where it is a stream's). */
int connected(const struct job *job, int type);
int bound(const struct job *job, int type);
/* Exactly `size` bytes; false at the end of the stream, on an error or after the socket's patience. */
bool put_all(int fd, void *data, size_t size);
bool get_all(int fd, void *data, size_t size);
/* A receive buffer as large as a burst may need, where the kernel allows it. */
void large_buffers(int fd);

/* streams.c */
void tcp_end(const struct job *job, bool server);
void idle_end(const struct job *job, bool server);

/* rounds.c */
void rounds_client(const struct job *job, int type, bool fresh);
void rounds_server(const struct job *job, bool fresh);
void echo_datagrams(const struct job *job);

/* datagrams.c */
void udp_end(const struct job *job, bool server);

/* quic.c */
void quic_end(const struct job *job, bool server);

/* peers.c */
void peers_client(const struct job *job);
