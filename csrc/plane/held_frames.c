/* How: a list, the oldest first. It is short, and only flows whose name has to be asked again come here. */
#include "plane/held_frames.h"

#include <stdlib.h>
#include <string.h>

void held_frames_add(struct held_frames *h, const struct link_frame *f)
{
	struct held_frame **end = &h->first, *held = NULL;

	if (f->len <= HELD_FRAME_BYTES && !held_frames_full(h))
		held = malloc(sizeof(*held) + f->len);
	if (!held)
		return;
	*held = (struct held_frame){.frame = *f};
	memcpy(held->bytes, f->data, f->len);
	held->frame.data = held->bytes;
	while (*end)
		end = &(*end)->next;
	*end = held;
	h->count++;
}

struct held_frame *held_frames_take(struct held_frames *h)
{
	struct held_frame *held = h->first;

	if (held) {
		h->first = held->next;
		h->count--;
	}
	return held;
}

void held_frames_free(struct held_frames *h)
{
	struct held_frame *held;

	while ((held = held_frames_take(h)))
		free(held);
}
