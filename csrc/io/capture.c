/* How: the loop puts frames into a ring of bytes; a writer thread makes records of them and writes these.
 *
 * The ring has the layout of the file. The loop copies a frame to its place; a slot (capture_slot.h), which tells the writer about it, stands
 * where the record's header will be. The writer completes checksum and header in place and passes many records to one write(),
 * without another copy. A record never wraps: the bytes left at the end of the ring are skipped. Other blocks of pcapng (names) are
 * complete but for their first bytes, which wait in the slot.
 *
 * The writer sleeps while the ring is empty (IDLE), and the first frame wakes it. It then lets frames gather for a moment (LINGER);
 * only WAKE_BYTES of them wake it earlier. So the loop makes at most two system calls a batch.
 *
 * Several loops (capture_share()) take turns with a lock, held for a copy, or for as long as there is no room. The time of a frame
 * is taken under the lock, so times never go back. Frames of two loops may be recorded in the opposite order to that in which they
 * left.
 *
 * Invariants: head and tail only grow; tail <= head <= tail + RING_BYTES. Only the loop stores head, only the writer stores tail.
 * Bytes in [tail, head) belong to the writer, all others to the loop. Between two calls of write(), also after an error, the file
 * ends with a whole record. (During a call most file systems show the bytes written so far.)
 *
 * Rejected: writing from the loop, which a busy disk would stop for any time.
 */
#include "io/capture.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "io/capture_files.h"
#include "io/capture_slot.h"
#include "io/thread.h"

/* Sizes. */
#define RING_BYTES (8u << 20)
#define WAKE_BYTES (256u << 10)  /* the writer does not linger for more */
#define WRITE_BYTES (512u << 10) /* about the size of one write(); each makes room for the loop */
#define STACK_BYTES (64u << 10)

/* Times. */
#define LINGER_NS (10 * NS_PER_MS)
#define FILE_STALL_NS (2000 * NS_PER_MS)  /* how long the loop waits for a file that takes nothing, */
#define STREAM_STALL_NS (100 * NS_PER_MS) /* and for a stream, until its reader has caught up */

_Static_assert(PCAP_SNAPLEN_BYTES * 4 < RING_BYTES, "every frame fits, also after a skip");

enum writer_state { WRITER_BUSY, WRITER_LINGER, WRITER_IDLE };

struct capture {
	/* Set once. */
	uint8_t *ring;
	bool pcapng;
	struct capture_choice choice;
	const struct capture_names *names; /* for pcapng; or NULL */
	bool stream;                       /* its reader may be slow */
	size_t frame_offset;
	pthread_t thread;
	bool shared;
	pthread_mutex_t lock; /* for several loops: of the members below that are the loop's */

	/* The loop's. */
	alignas(64) _Atomic uint64_t head;
	uint64_t tail_seen;
	uint64_t accepted, accepted_bytes;
	_Atomic uint64_t seen, matched, dropped; /* for the writer too */
	int64_t patience_ns;                     /* for a stream: left of STREAM_STALL_NS */
	bool stalled;                            /* for anything else: no progress since tail was stalled_at */
	uint64_t stalled_at;
	_Atomic int notice;
	bool notice_given, failure_given;
	struct capture_told *told; /* with names: in the file `told_file` */
	uint32_t told_file;

	/* The writer's. */
	alignas(64) _Atomic uint64_t tail;
	_Atomic uint64_t written, written_bytes; /* frames in the file, and their bytes */
	_Atomic int failed;
	_Atomic uint32_t files_begun;
	struct capture_files files;

	/* Of both. */
	alignas(64) _Atomic uint32_t state; /* enum writer_state; a futex */
	_Atomic uint32_t loop_waits;        /* a futex */
	_Atomic uint32_t starting;          /* a futex */
	_Atomic bool stop;
};

/* Returns at once if *word is not value; else on a wake-up, after timeout_ns (negative: no timeout), or spuriously. */
static void futex_wait(_Atomic uint32_t *word, uint32_t value, int64_t timeout_ns)
{
	struct timespec t = {timeout_ns / (1000 * NS_PER_MS), timeout_ns % (1000 * NS_PER_MS)};

	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, timeout_ns < 0 ? NULL : &t, NULL, 0);
}

/* Sets *word to zero. If it was not, wakes the thread that waits on it. */
static void futex_clear(_Atomic uint32_t *word)
{
	if (atomic_exchange(word, 0))
		syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* ---- the writer ---- */

/* Gives room to the loop, and wakes it if it waits for some. */
static void give_back(struct capture *c, uint64_t tail)
{
	atomic_store(&c->tail, tail);
	if (atomic_load(&c->loop_waits))
		futex_clear(&c->loop_waits);
}

/* Counts the whole records in the first len bytes. Returns their length. */
static size_t count_whole(struct capture *c, const uint8_t *data, size_t len)
{
	uint64_t frames = 0, bytes = 0;
	size_t at = 0, size;
	int64_t frame_len;

	while (at < len) {
		size = pcap_finished_size(c->pcapng, data + at, &frame_len);
		if (size > len - at)
			break;
		at += size;
		if (frame_len < 0)
			continue;
		frames++;
		bytes += (uint64_t)frame_len;
	}
	atomic_fetch_add_explicit(&c->written, frames, memory_order_relaxed);
	atomic_fetch_add_explicit(&c->written_bytes, bytes, memory_order_relaxed);
	return at;
}

static bool fail(struct capture *c, int error)
{
	atomic_store(&c->failed, error);
	futex_clear(&c->loop_waits);
	return false;
}

static struct pcap_statistics statistics(const struct capture *c)
{
	return (struct pcap_statistics){
		.time_ns = (uint64_t)clock_ns(CLOCK_REALTIME),
		.seen = atomic_load_explicit(&c->seen, memory_order_relaxed),
		.matched = atomic_load_explicit(&c->matched, memory_order_relaxed),
		.dropped = atomic_load_explicit(&c->dropped, memory_order_relaxed),
	};
}

/* Goes on with the next file of the ring. False: an error. */
static bool next_file(struct capture *c)
{
	const struct pcap_statistics so_far = statistics(c);
	int error = capture_files_next(&c->files, &so_far, &c->stop);

	atomic_fetch_add_explicit(&c->files_begun, 1, memory_order_relaxed);
	return error ? fail(c, error) : true;
}

static void end_file(struct capture *c)
{
	const struct pcap_statistics last = statistics(c);
	int error = capture_files_end(&c->files, &last, &c->stop);

	if (error)
		fail(c, error);
}

/* Finishes records at offset, of left bytes, as many as are worth one write() and fit into the file. Returns their length. */
static size_t finish_some(struct capture *c, size_t offset, size_t left)
{
	uint64_t room = capture_files_room(&c->files);
	size_t len = 0, size;

	for (; left - len >= sizeof(struct capture_slot) && len < WRITE_BYTES; len += size) {
		uint8_t *record = c->ring + offset + len;
		const struct capture_slot slot = slot_at(record);

		size = slot_size(&slot, c->pcapng);
		/* A file has one record at least, or a frame longer than a file would have no place. */
		if (slot.skip || (len + size > room && (len || c->files.used)))
			break;
		slot_finish(&slot, c->pcapng, record);
	}
	return len;
}

static bool is_skipped(const struct capture *c, size_t offset, size_t left)
{
	return left < sizeof(struct capture_slot) || slot_at(c->ring + offset).skip;
}

/* Writes all records up to head. Returns false after an error. */
static bool drain(struct capture *c, uint64_t tail, uint64_t head)
{
	size_t offset, left, len, size, done;
	int error;

	while (tail < head) {
		offset = tail % RING_BYTES;
		left = size_min(RING_BYTES - offset, head - tail);
		if (is_skipped(c, offset, left)) {
			tail += RING_BYTES - offset;
			give_back(c, tail);
			continue;
		}
		len = finish_some(c, offset, left);
		if (!len) {
			if (!next_file(c))
				return false;
			continue;
		}
		error = sink_write(&c->files.sink, c->ring + offset, len, &done, &c->stop);
		size = count_whole(c, c->ring + offset, done);
		if (error) {
			sink_cut(&c->files.sink, done - size);
			return fail(c, error);
		}
		capture_files_wrote(&c->files, len);
		tail += len;
		give_back(c, tail);
	}
	return true;
}

/* Waits in a state until the loop ends it or timeout_ns have passed. Does not wait if there are enough bytes, or a stop. */
static void writer_wait(struct capture *c, uint64_t tail, enum writer_state state, uint64_t enough, int64_t timeout_ns)
{
	atomic_store(&c->state, state);
	if (atomic_load(&c->head) - tail < enough && !atomic_load(&c->stop))
		futex_wait(&c->state, state, timeout_ns);
	atomic_store(&c->state, WRITER_BUSY);
}

static void *writer(void *arg)
{
	struct capture *c = arg;
	uint64_t tail, head;
	bool stop, going;

	pthread_setname_np(pthread_self(), "pasta-capture"); /* naming another thread takes /proc, which the sandbox hides */
	futex_clear(&c->starting);
	do {
		tail = atomic_load_explicit(&c->tail, memory_order_relaxed);
		if (atomic_load(&c->head) == tail)
			writer_wait(c, tail, WRITER_IDLE, 1, -1);
		writer_wait(c, tail, WRITER_LINGER, WAKE_BYTES, LINGER_NS);
		stop = atomic_load(&c->stop); /* before head: nothing comes after it */
		head = atomic_load(&c->head);
		going = drain(c, tail, head);
	} while (going && !stop);
	if (going)
		(void)end_file(c);
	return NULL;
}

/* ---- the loop ---- */

static bool has_room(struct capture *c, uint64_t head, size_t need)
{
	if (head + need - c->tail_seen <= RING_BYTES)
		return true;
	c->tail_seen = atomic_load(&c->tail);
	return head + need - c->tail_seen <= RING_BYTES;
}

/* Waits for room until patience ends. Returns the patience left, or a negative number. */
static int64_t wait_for_room(struct capture *c, uint64_t head, size_t need, int64_t patience_ns)
{
	int64_t end_ns = clock_ns(CLOCK_MONOTONIC) + patience_ns, left_ns;
	uint64_t tail = c->tail_seen;
	bool room;

	futex_clear(&c->state);
	for (;;) {
		atomic_store(&c->loop_waits, 1);
		room = has_room(c, head, need);
		if (!c->stream && c->tail_seen != tail) {
			tail = c->tail_seen;
			end_ns = clock_ns(CLOCK_MONOTONIC) + patience_ns;
		}
		left_ns = end_ns - clock_ns(CLOCK_MONOTONIC);
		if (room || left_ns <= 0 || atomic_load(&c->failed))
			break;
		futex_wait(&c->loop_waits, 1, left_ns);
	}
	atomic_store(&c->loop_waits, 0);
	return room ? (left_ns > 0 ? left_ns : 0) : -1;
}

/* Makes sure of need bytes of room at head. False: there is none in time. */
static bool make_room(struct capture *c, uint64_t head, size_t need)
{
	int64_t left_ns;

	if (has_room(c, head, need)) {
		c->stalled = false;
		if (c->stream && c->patience_ns < STREAM_STALL_NS && atomic_load(&c->tail) == head)
			c->patience_ns = STREAM_STALL_NS; /* the reader has caught up */
		return true;
	}
	if (c->stream ? c->patience_ns <= 0 : c->stalled && c->stalled_at == c->tail_seen)
		return false;
	left_ns = wait_for_room(c, head, need, c->stream ? c->patience_ns : FILE_STALL_NS);
	if (c->stream)
		c->patience_ns = left_ns;
	if (left_ns >= 0) {
		c->stalled = false;
		return true;
	}
	c->stalled = true;
	c->stalled_at = c->tail_seen;
	atomic_store_explicit(&c->notice, c->stream ? EAGAIN : ETIMEDOUT, memory_order_relaxed);
	return false;
}

/* Marks the end of the ring as skipped. One that is too short for a mark needs none. */
static void skip_end(struct capture *c, size_t offset)
{
	const struct capture_slot slot = {.skip = true};

	if (RING_BYTES - offset >= sizeof(slot))
		memcpy(c->ring + offset, &slot, sizeof(slot));
}

static void publish(struct capture *c, uint64_t head)
{
	uint32_t state;

	atomic_store(&c->head, head);
	state = atomic_load(&c->state);
	if (UNLIKELY(state == WRITER_IDLE) ||
	    (state == WRITER_LINGER && head - atomic_load_explicit(&c->tail, memory_order_relaxed) >= WAKE_BYTES))
		futex_clear(&c->state);
}

/* For a counter that one thread at a time changes. */
static void add_one(_Atomic uint64_t *counter)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1, memory_order_relaxed);
}

/* A place in the ring, which publish(c, end) gives to the writer. */
struct place {
	uint8_t *at;
	uint64_t end;
};

/* False: there is no room in time. */
static bool reserve(struct capture *c, size_t size, struct place *place)
{
	uint64_t head = atomic_load_explicit(&c->head, memory_order_relaxed);
	size_t offset = head % RING_BYTES, skip = size > RING_BYTES - offset ? RING_BYTES - offset : 0;

	if (!make_room(c, head, skip + size))
		return false;
	if (skip)
		skip_end(c, offset);
	*place = (struct place){c->ring + (skip ? 0 : offset), head + skip + size};
	return true;
}

/* The name of the frame's flow, if this file does not have it yet. */
static const struct capture_name *name_of(struct capture *c, enum capture_direction direction, const struct iovec *head,
					  struct capture_mark *mark)
{
	uint32_t file;

	if (LIKELY(!c->told))
		return NULL;
	file = atomic_load_explicit(&c->files_begun, memory_order_relaxed);
	if (file != c->told_file) {
		c->told_file = file;
		*c->told = (struct capture_told){0};
	}
	return capture_name_of(c->names, c->told, direction, head, mark);
}

/* Adds the block with a name. False: there is no room in time. */
static bool put_name(struct capture *c, const struct capture_name *name)
{
	uint8_t block[PCAP_NAME_BLOCK_MAX_BYTES];
	size_t size = pcap_name_block(&name->addr, name->text, name->len, block);
	struct place place;

	if (!reserve(c, size, &place))
		return false;
	slot_put_block(place.at, block, size);
	publish(c, place.end);
	return true;
}

/* Adds one record, if the filter takes the packet. */
static void put(void *to, const struct capture_packet *packet, const struct iovec *iov, int iovcnt)
{
	struct capture *c = to;
	const struct capture_name *name;
	struct pcap_frame frame;
	struct place place;
	struct capture_slot slot;
	struct capture_mark mark;

	add_one(&c->seen);
	if (!capture_takes(&c->choice, iov, iovcnt, &frame))
		return;
	add_one(&c->matched);
	if (UNLIKELY(frame.full_len > PCAP_SNAPLEN_BYTES || atomic_load_explicit(&c->failed, memory_order_relaxed))) {
		add_one(&c->dropped);
		return;
	}
	name = name_of(c, packet->direction, iov, &mark);
	if (name && mark.name_is_new && !put_name(c, name))
		name = NULL;
	frame.comment_len = name ? name->len : 0;
	if (UNLIKELY(!reserve(c, pcap_record_size(c->pcapng, frame.len, frame.comment_len), &place))) {
		add_one(&c->dropped);
		return;
	}
	slot = slot_of(packet, &frame);
	memcpy(place.at, &slot, sizeof(slot));
	capture_gather(place.at + c->frame_offset, frame.len, iov, iovcnt);
	if (name) {
		memcpy(place.at + pcap_comment_offset(frame.len), name->text, name->len);
		capture_told_add(c->told, &mark);
	}
	c->accepted++;
	c->accepted_bytes += frame.len;
	publish(c, place.end);
}

void capture_frame(struct capture *c, enum capture_direction direction, const struct iovec *iov, int iovcnt,
		   const struct capture_offload *offload)
{
	if (c->shared)
		pthread_mutex_lock(&c->lock);
	capture_split(direction, iov, iovcnt, offload, put, c);
	if (c->shared)
		pthread_mutex_unlock(&c->lock);
}

void capture_share(struct capture *c)
{
	c->shared = true;
}

struct capture_counters capture_counters(struct capture *c)
{
	struct capture_counters counters;
	uint64_t accepted;

	pthread_mutex_lock(&c->lock);
	accepted = c->accepted;
	counters = (struct capture_counters){accepted, c->accepted_bytes, atomic_load_explicit(&c->dropped, memory_order_relaxed)};
	pthread_mutex_unlock(&c->lock);

	if (atomic_load(&c->failed)) {
		counters.frames = atomic_load_explicit(&c->written, memory_order_relaxed);
		counters.bytes = atomic_load_explicit(&c->written_bytes, memory_order_relaxed);
		counters.dropped += accepted - counters.frames;
	}
	return counters;
}

int capture_error(struct capture *c)
{
	int failed = atomic_load_explicit(&c->failed, memory_order_relaxed);

	if (UNLIKELY(failed && !c->failure_given)) {
		c->failure_given = true;
		return failed;
	}
	if (LIKELY(!atomic_load_explicit(&c->notice, memory_order_relaxed)) || c->notice_given)
		return 0;
	c->notice_given = true;
	return atomic_load_explicit(&c->notice, memory_order_relaxed);
}

const char *capture_error_text(int error)
{
	switch (error) {
	case ENOSPC:
	case EDQUOT:
		return "capture ended: no space left for its file, which ends with a whole frame; traffic goes on";
	case EFBIG:
		return "capture ended: its file has reached the size limit (ulimit -f, or of the file system); traffic goes on";
	case EPIPE:
	case ECONNRESET:
		return "capture ended: its reader has closed the stream; traffic goes on";
	case EAGAIN:
		return "capture: its reader is too slow, frames are left out until it has caught up; traffic goes on";
	case ETIMEDOUT:
		return "capture: its file took no data for 2 s, frames are left out until it does; traffic goes on";
	case ECANCELED:
		return "capture: its reader did not take the last frames in time, they are left out";
	default:
		return "capture ended: its file cannot be written (input/output error); traffic goes on";
	}
}

/* ---- life ---- */

static int start_writer(struct capture *c)
{
	int rc;

	atomic_store(&c->starting, 1);
	rc = thread_start(&c->thread, STACK_BYTES, writer, c);
	if (rc)
		return rc;
	while (atomic_load(&c->starting))
		futex_wait(&c->starting, 1, -1);
	return 0;
}

/* Copies what the configuration says. Returns 0 or -errno. */
static int configure(struct capture *c, const struct capture_config *config)
{
	int rc = capture_choose(&c->choice, config->snaplen, config->filter, config->filter_len);

	if (rc || !config->files || config->files > CAPTURE_FILES_MAX)
		return rc ? rc : -EINVAL;
	c->pcapng = config->pcapng;
	if (config->pcapng && config->names) {
		c->names = config->names;
		c->told = calloc(1, sizeof(*c->told));
		if (!c->told)
			return -ENOMEM;
	}
	c->frame_offset = pcap_frame_offset(config->pcapng);
	c->files = (struct capture_files){
		.count = config->files, .limit_bytes = config->file_bytes, .pcapng = c->pcapng, .snaplen = c->choice.snaplen};
	memcpy(c->files.fds, config->fds, config->files * sizeof(*config->fds));
	return 0;
}

int capture_open(struct capture **out, const struct capture_config *config)
{
	struct capture *c;
	int error;

	c = aligned_alloc(alignof(struct capture), sizeof(*c));
	if (!c)
		return -ENOMEM;
	memset(c, 0, sizeof(*c));
	c->patience_ns = STREAM_STALL_NS;
	pthread_mutex_init(&c->lock, NULL);
	error = configure(c, config);
	if (!error)
		error = capture_files_open(&c->files);
	if (error)
		goto fail;
	c->stream = c->files.sink.stream;
	c->ring = mmap(NULL, RING_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (c->ring == MAP_FAILED) {
		error = -ENOMEM;
		goto fail;
	}
	error = start_writer(c);
	if (error) {
		munmap(c->ring, RING_BYTES);
		goto fail;
	}
	*out = c;
	return 0;
fail:
	pthread_mutex_destroy(&c->lock);
	capture_choice_free(&c->choice);
	free(c->told);
	free(c);
	return error;
}

int capture_stop(struct capture *c, struct capture_counters *counters)
{
	int error;

	atomic_store(&c->stop, true);
	futex_clear(&c->state);
	pthread_join(c->thread, NULL);
	error = capture_error(c);
	if (counters)
		*counters = capture_counters(c);
	munmap(c->ring, RING_BYTES);
	pthread_mutex_destroy(&c->lock);
	capture_choice_free(&c->choice);
	free(c->told);
	free(c);
	return error;
}
