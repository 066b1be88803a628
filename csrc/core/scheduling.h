/* Purpose: how one thread divides its time and the guest's memory among many flows. All state and constants for that are here.
 *
 * How: a turn of the loop handles the events of one wait, then the flows to which these gave work. Nothing here changes what is
 * delivered, only when. Each heuristic names the cells of `make bench` that show its gain;
 * `make bench-heuristics` switches them off one by one.
 *
 * Batches. One event of the tap takes a bounded number of frames, so that timers and other sockets have their turn. One
 *     acknowledgement for many frames costs less than many; too many frames use up the guest's window.
 *     Cells: tcp-in-*, tcp-out-*, tcp8-*.
 * Run queue. A flow whose socket holds more for the guest than one turn's share waits in a queue for its quantum (deficit round
 *     robin, RFC 8290, 4.1). It stays at the head for a whole quantum, because the guest's reader is awake then; between two
 *     turns the loop looks for other work. The quantum shrinks as the queue grows, so that a round does not get longer.
 *     Cells: tcp8-in-*, cost64-in, cost512-in.
 * Latency mode. For a while after a short message another is expected, and turns are short: one frame of a stream at a time,
 *     and acknowledged bytes are dropped in small pieces.
 *     Cells: greedy-*.
 * Late drops. Dropping acknowledged bytes from a socket opens the host peer's window and wakes its sender. A flow in the run
 *     queue drops seldom, and when it has read everything.
 *     Cells: tcp8-in-*, tcp-in-*.
 * Delayed ACKs. Where several flows send, the acknowledgement of a part of a stream waits for the next look at the tap, which
 *     finds more of all of them. It waits only while the guest can go on sending without it.
 *     Cells: tcp8-out-*.
 * Window sharing. All windows together stay within half of the tap's queue, which loses a frame that does not fit. So the
 *     largest window is a share, by the number of flows that sent lately.
 *     Cells: cost64-out, cost512-out.
 * Adaptive polling. A socket with many datagrams a millisecond is read at intervals and not waited for, as a driver does with a
 *     network card under load: each wakeup of the worker slows the sender down.
 *     Cells: udp*-in.
 *
 * Rejected: a queue with priorities (before it is read, a short message looks like the end of a stream); a thread for each
 * direction (a hand-over per frame).
 */
#ifndef PASTA_CORE_SCHEDULING_H
#define PASTA_CORE_SCHEDULING_H

#include "core/worklist.h"

/* --- batches: how much one event takes --- */

#define SCHED_TAP_FRAMES 32
#define SCHED_TAP_BYTES (1u << 20)
#define SCHED_ACCEPTS 64
#define SCHED_SPLICE_MOVES 8
#define SCHED_ERRORS 16 /* entries of an error queue */
#define SCHED_PINGS 16

/* --- latency mode, window sharing, delayed ACKs: the state of one shard --- */

#define SCHED_LATENCY_MODE_MS 20
#define SCHED_SHORT_BYTES 8192 /* the longest short message; more is a part of a stream */

#define SCHED_DROP_BYTES (8u << 20)               /* acknowledged bytes that a flow in the run queue leaves in its socket */
#define SCHED_DROP_LATENCY_MODE_BYTES (64u << 10) /* the same in latency mode: dropping many at once takes long */

#define SCHED_WINDOW_MAX_BYTES (4u << 20) /* of one flow */
#define SCHED_WINDOWS_BYTES (64u << 20)   /* of all flows that send: half of the tap's queue, in full frames */
#define SCHED_WINDOW_STALE_BYTES 8192     /* a window is computed again when the flow has received this much, */
#define SCHED_WINDOW_LOW_BYTES 65536      /* or has no more than this left of it */
#define SCHED_SENDERS_MS 128              /* the period in which senders are counted */

#define SCHED_DELAYED_ACK_MIN_BYTES 16384        /* fewer bytes may be a message, whose sender waits for the acknowledgement */
#define SCHED_DELAYED_ACK_MAX_BYTES (512u << 10) /* at this many bytes the acknowledgement is sent, */
#define SCHED_DELAYED_ACK_TURNS 8                /* or after this many turns, or when there is nothing else to do */

struct sched {
	int64_t short_message_ms;  /* when the last short message passed; 0: never */
	uint8_t period;            /* number of the current period of SCHED_SENDERS_MS, modulo 256 */
	uint32_t senders;          /* flows that have sent in this period */
	uint32_t senders_before;   /* flows that sent in the one before */
	uint8_t delayed_ack_turns; /* turns for which acknowledgements have waited */
};

/* A short message has passed. */
static inline void sched_note_short(struct sched *s, int64_t now_ms)
{
	s->short_message_ms = now_ms;
}

static inline bool sched_latency_mode(const struct sched *s, int64_t now_ms)
{
	return now_ms - s->short_message_ms < SCHED_LATENCY_MODE_MS;
}

/* At this many acknowledged bytes a flow drops them although it is in the run queue. */
static inline uint32_t sched_drop_bytes(const struct sched *s, int64_t now_ms)
{
	return sched_latency_mode(s, now_ms) ? SCHED_DROP_LATENCY_MODE_BYTES : SCHED_DROP_BYTES;
}

/* Counts a flow that sends; *sent_in: the period in which it last did. Returns its largest window, not below `least`.
 * A flow that was silent for exactly 256 periods is not counted: the shares of the others are then slightly too large. */
static inline uint32_t sched_window_share(struct sched *s, int64_t now_ms, uint8_t *sent_in, uint32_t least)
{
	uint8_t period = (uint8_t)(now_ms / SCHED_SENDERS_MS);
	uint32_t bytes;

	if (period != s->period) {
		s->senders_before = (uint8_t)(period - s->period) == 1 ? s->senders : 0;
		s->senders = 0;
		s->period = period;
	}
	s->senders += *sent_in != period || !s->senders;
	*sent_in = period;
	bytes = SCHED_WINDOWS_BYTES / (s->senders > s->senders_before ? s->senders : s->senders_before);
	return bytes > SCHED_WINDOW_MAX_BYTES ? SCHED_WINDOW_MAX_BYTES : bytes < least ? least : bytes;
}

/* Whether the acknowledgement of `bytes` may wait: other flows send too, and the bytes are a part of a stream. */
static inline bool sched_may_delay_ack(const struct sched *s, uint32_t bytes)
{
	return s->delayed_ack_turns < SCHED_DELAYED_ACK_TURNS && s->senders_before > 1 && bytes >= SCHED_DELAYED_ACK_MIN_BYTES &&
	       bytes < SCHED_DELAYED_ACK_MAX_BYTES;
}

/* --- run queue --- */

/* In frames. */
#define SCHED_FIRST_FRAMES 8 /* of a flow that has just become ready, before it waits in the queue */
#define SCHED_TURN_FRAMES 8
#define SCHED_TURN_LATENCY_MODE_FRAMES 1
#define SCHED_QUANTUM_MAX 32
#define SCHED_QUANTUM_MIN 4
#define SCHED_ROUND 2048 /* all quanta together, if none is below SCHED_QUANTUM_MIN */

struct run_queue {
	struct worklist list;
	struct work *served; /* the flow that had the last turn; may be gone, so it is only compared */
	uint32_t used;       /* frames of its quantum that it has used */
};

static inline uint32_t run_queue_quantum(const struct run_queue *q)
{
	uint32_t share = q->list.count ? SCHED_ROUND / q->list.count : SCHED_QUANTUM_MAX;

	return share > SCHED_QUANTUM_MAX ? SCHED_QUANTUM_MAX : share < SCHED_QUANTUM_MIN ? SCHED_QUANTUM_MIN : share;
}

/* The flow whose turn it is; it stays in the queue. NULL: the queue is empty. *frames: how many it may send, not above `most`; they
 * count as used. */
static inline struct work *run_queue_next(struct run_queue *q, uint32_t most, uint32_t *frames)
{
	uint32_t quantum = run_queue_quantum(q), left;
	struct work *w = q->list.head;

	if (w && w == q->served && q->used >= quantum) {
		worklist_remove(&q->list, w);
		worklist_add(&q->list, w);
		w = q->list.head;
		q->used = 0;
	}
	if (w != q->served)
		q->used = 0;
	q->served = w;
	left = quantum - q->used;
	*frames = left < most ? left : most;
	q->used += *frames;
	return w;
}

/* The flow that was served last has used its quantum. */
static inline void run_queue_end_turn(struct run_queue *q)
{
	q->used = SCHED_QUANTUM_MAX;
}

static inline void run_queue_add(struct run_queue *q, struct work *w)
{
	worklist_add(&q->list, w);
}

static inline void run_queue_remove(struct run_queue *q, struct work *w)
{
	worklist_remove(&q->list, w);
	if (q->served == w)
		q->served = NULL;
}

/* Frames for a flow that has just become ready. */
static inline uint32_t sched_first_frames(const struct sched *s, const struct run_queue *q, int64_t now_ms)
{
	return q->list.count || sched_latency_mode(s, now_ms) ? 1 : SCHED_FIRST_FRAMES;
}

/* Frames for the flow at the head of the queue. */
static inline uint32_t sched_turn_frames(const struct sched *s, int64_t now_ms)
{
	return sched_latency_mode(s, now_ms) ? SCHED_TURN_LATENCY_MODE_FRAMES : SCHED_TURN_FRAMES;
}

/* --- adaptive polling of datagram sockets --- */

#define SCHED_POLL_ABOVE_PER_MS 32 /* with this many datagrams in a millisecond a socket is polled, */
#define SCHED_POLL_UNTIL_BELOW 4   /* until one poll finds fewer than these */
#define SCHED_POLL_INTERVAL_US 50  /* from the begin of one poll to the next; the kernel's timer slack adds as much */
#define SCHED_POLL_BATCHES 4       /* of DATAGRAM_BATCH that one poll reads */
#define SCHED_POLLED_MAX 16        /* sockets that are polled at a time */

/* How many datagrams a socket had in the current millisecond. */
struct sched_rate {
	uint32_t ms; /* low bits of the clock */
	uint16_t count;
};

/* Counts n more. True: the socket has enough to be polled. */
static inline bool sched_rate_is_high(struct sched_rate *r, int64_t now_ms, int n)
{
	if (r->ms != (uint32_t)now_ms) {
		r->ms = (uint32_t)now_ms;
		r->count = 0;
	}
	r->count = (uint16_t)(r->count + n);
	return r->count >= SCHED_POLL_ABOVE_PER_MS;
}

#endif
