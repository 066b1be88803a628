/* Purpose: threads of the worker beside Python's. */
#ifndef PASTA_IO_THREAD_H
#define PASTA_IO_THREAD_H

#include <pthread.h>
#include <signal.h>
#include <stddef.h>

/* Starts a thread with all signals blocked, which are for Python's thread, but for SIGBUS: its own access of a guest's memory raises
 * it (vhost_memory.c), and blocked it would end the process. 0 or -errno. The C library makes system calls in the new thread (rseq,
 * set_robust_list) that the sandbox forbids, so the caller waits until the thread has run before it closes the sandbox. */
static inline int thread_start(pthread_t *thread, size_t stack_bytes, void *(*run)(void *), void *argument)
{
	pthread_attr_t attr;
	sigset_t all, before;
	int error;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, stack_bytes);
	sigfillset(&all);
	sigdelset(&all, SIGBUS);
	pthread_sigmask(SIG_SETMASK, &all, &before); /* the thread inherits it */
	error = pthread_create(thread, &attr, run, argument);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	return -error;
}

#endif
