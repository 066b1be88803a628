#include "io/turns.h"

void turns_init(struct turns *t)
{
	*t = (struct turns){.inside = 0};
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->changed, NULL);
}

void turns_enter(struct turns *t)
{
	pthread_mutex_lock(&t->lock);
	while (t->closed)
		pthread_cond_wait(&t->changed, &t->lock);
	t->inside++;
	pthread_mutex_unlock(&t->lock);
}

void turns_leave(struct turns *t)
{
	pthread_mutex_lock(&t->lock);
	t->inside--;
	if (t->closed)
		pthread_cond_broadcast(&t->changed);
	pthread_mutex_unlock(&t->lock);
}

void turns_close(struct turns *t)
{
	pthread_mutex_lock(&t->lock);
	t->closed = true;
	while (t->inside)
		pthread_cond_wait(&t->changed, &t->lock);
	pthread_mutex_unlock(&t->lock);
}

void turns_open(struct turns *t)
{
	pthread_mutex_lock(&t->lock);
	t->closed = false;
	pthread_cond_broadcast(&t->changed);
	pthread_mutex_unlock(&t->lock);
}
