/* Purpose: fork a process that stays in C, out of an interpreter. */
#ifndef PASTA_IO_SMALL_FORK_H
#define PASTA_IO_SMALL_FORK_H

#include <sys/types.h>

#define SMALL_FORK_SOCKET 3 /* behind the standard streams */

/* 1 in the child: its standard streams are `null`, SMALL_FORK_SOCKET is a SOCK_SEQPACKET socket to the caller, and no other descriptor
 * is open. It has the memory that C needs, and no other: it calls nothing of Python, allocates nothing, and ends by _exit(2).
 * 0 in the caller, whose end of the socket is descriptor `ours`. Or -errno; then the child ends when it looks at its socket. */
int small_fork(int null, int ours);

/* fork() of the C library would run what other libraries have registered for it, and their memory is gone. */
pid_t plain_fork(void);

#endif
