/* Purpose: frames of the guest that open a flow, and wait until a name is asked again (core/egress.h): the first of each flow. */
#ifndef PASTA_PLANE_HELD_FRAMES_H
#define PASTA_PLANE_HELD_FRAMES_H

#include <stdbool.h>
#include <stdint.h>

#include "io/link.h"

#define HELD_FRAMES_MAX 64
#define HELD_FRAME_BYTES 2048

struct held_frames {
	struct held_frame *first;
	uint32_t count;
};

static inline bool held_frames_full(const struct held_frames *h)
{
	return h->count == HELD_FRAMES_MAX;
}
/* Keeps a copy of the frame. A frame that is too large, or without memory, is lost, as on any link. */
void held_frames_add(struct held_frames *h, const struct link_frame *f);
/* Takes the one that has waited for the longest. The caller frees it. NULL: there is none. */
struct held_frame *held_frames_take(struct held_frames *h);
void held_frames_free(struct held_frames *h);

struct held_frame {
	struct held_frame *next;
	struct link_frame frame;
	uint8_t bytes[];
};

#endif
