/* Purpose: lets one thread change what others use, while these are between two of their turns: they pay for no lock within a turn. */
#ifndef PASTA_IO_TURNS_H
#define PASTA_IO_TURNS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct turns {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint32_t inside; /* threads that are in a turn */
	bool closed;     /* none may begin one */
};

void turns_init(struct turns *t);
/* A thread's turn begins and ends. It waits only where the change is being made. */
void turns_enter(struct turns *t);
void turns_leave(struct turns *t);
/* Waits until no thread is in a turn, which is short, and lets none begin until turns_open(). */
void turns_close(struct turns *t);
void turns_open(struct turns *t);

#endif
