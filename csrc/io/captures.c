/* How: a frame is copied once for each client that takes it, behind the header of its record, gets its checksum there, and is sent. */
#include "io/captures.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/bytes.h"
#include "io/sink.h"

void captures_init(struct captures *cs)
{
	*cs = (struct captures){0};
	pthread_mutex_init(&cs->lock, NULL);
	for (size_t i = 0; i < ARRAY_LEN(cs->client); i++)
		cs->client[i].fd = -1;
}

static void release(struct capture_client *c)
{
	free(c->record);
	free(c->told);
	capture_choice_free(&c->choice);
	*c = (struct capture_client){.fd = -1};
}

void captures_free(struct captures *cs)
{
	for (size_t i = 0; i < ARRAY_LEN(cs->client); i++)
		release(&cs->client[i]);
	capture_names_free(&cs->names);
	pthread_mutex_destroy(&cs->lock);
}

void captures_share(struct captures *cs)
{
	cs->shared = true;
	if (cs->file)
		capture_share(cs->file);
}

/* Sends what is left of the record. False: something is left. */
static bool send_rest(struct capture_client *c)
{
	while (c->sent < c->len && !c->failed) {
		ssize_t n = send(c->fd, c->record + c->sent, c->len - c->sent, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EAGAIN)
			return false;
		if (n < 0 && errno != EINTR)
			c->failed = true;
		c->sent += n > 0 ? (uint32_t)n : 0;
	}
	return !c->failed;
}

/* pcap has no place for the direction, and no frame has 2^31 bytes: the highest bit of the length is free. */
static void mark_to_guest(uint8_t *record)
{
	uint32_t full_len;

	memcpy(&full_len, record + 12, sizeof(full_len));
	full_len |= CAPTURE_CLIENT_TO_GUEST;
	memcpy(record + 12, &full_len, sizeof(full_len));
}

static size_t put_header(struct capture_client *c, uint8_t *out)
{
	size_t len = pcap_file_header(true, c->choice.snaplen, out);

	c->at = len;
	c->used = false;
	*c->told = (struct capture_told){0};
	return len;
}

static size_t put_end(const struct capture_client *c, uint8_t *out)
{
	const struct pcap_statistics end = {(uint64_t)clock_ns(CLOCK_REALTIME), c->seen, c->counters.frames + c->counters.dropped,
					    c->counters.dropped};

	return pcap_file_end(c->told, &end, out);
}

/* Whether a frame with this name and the end do not fit into the present file. A file has one frame at least. */
static bool is_full(const struct capture_client *c, const struct pcap_frame *frame, const struct capture_name *name)
{
	size_t size = pcap_record_size(true, frame->len, name ? name->len : 0) + (name ? PCAP_NAME_BLOCK_MAX_BYTES : 0);

	return c->file_bytes && c->used && c->at + size + PCAP_STATISTICS_BYTES > c->file_bytes;
}

/* Makes the record in c->record. */
static void make_record(struct capture_client *c, const struct capture_packet *packet, struct pcap_frame *frame,
			const struct iovec *iov, int iovcnt)
{
	bool pcapng = c->told;
	const struct capture_name *name = NULL;
	uint8_t *record = c->record, *data;
	struct capture_mark mark;
	uint32_t counted = 0;

	if (pcapng)
		name = capture_name_of(c->names, c->told, packet->direction, iov, &mark);
	if (pcapng && is_full(c, frame, name)) {
		record += put_end(c, record);
		record += put_header(c, record);
		counted = (uint32_t)(record - c->record);
		name = capture_name_of(c->names, c->told, packet->direction, iov, &mark);
	}
	if (name) {
		if (mark.name_is_new)
			record += pcap_name_block(&name->addr, name->text, name->len, record);
		frame->comment_len = name->len;
		memcpy(record + pcap_comment_offset(frame->len), name->text, name->len);
		capture_told_add(c->told, &mark);
	}
	data = record + pcap_frame_offset(pcapng);
	capture_gather(data, frame->len, iov, iovcnt);
	if (packet->needs_csum && frame->len == frame->full_len)
		capture_complete_checksum(data, frame->len, packet->csum_start, packet->csum_offset);
	pcap_record_finish(pcapng, record, frame);
	if (!pcapng && packet->direction == CAPTURE_TO_GUEST)
		mark_to_guest(record);
	c->len = (uint32_t)(record - c->record) + (uint32_t)pcap_record_size(pcapng, frame->len, frame->comment_len);
	c->sent = 0;
	c->at += c->len - counted;
	c->used = true;
}

static void put(void *to, const struct capture_packet *packet, const struct iovec *iov, int iovcnt)
{
	struct capture_client *c = to;
	struct pcap_frame frame = {.time_ns = packet->time_ns, .direction = packet->direction};

	c->seen++;
	if (!capture_takes(&c->choice, iov, iovcnt, &frame))
		return;
	if (frame.full_len > PCAP_SNAPLEN_BYTES || !send_rest(c)) {
		c->counters.dropped++;
		return;
	}
	make_record(c, packet, &frame, iov, iovcnt);
	c->counters.frames++;
	c->counters.bytes += frame.len;
	(void)send_rest(c);
}

void captures_frame(struct captures *cs, enum capture_direction direction, const struct iovec *iov, int iovcnt,
		    const struct capture_offload *offload)
{
	if (cs->shared)
		pthread_mutex_lock(&cs->lock);
	if (cs->file)
		capture_frame(cs->file, direction, iov, iovcnt, offload);
	for (size_t i = 0; i < ARRAY_LEN(cs->client); i++)
		if (cs->client[i].fd >= 0)
			capture_split(direction, iov, iovcnt, offload, put, &cs->client[i]);
	if (cs->shared)
		pthread_mutex_unlock(&cs->lock);
}

int captures_want_names(struct captures *cs)
{
	int rc;

	pthread_mutex_lock(&cs->lock);
	rc = cs->naming ? 0 : capture_names_init(&cs->names);
	cs->naming += !rc;
	pthread_mutex_unlock(&cs->lock);
	return rc;
}

void captures_end_names(struct captures *cs)
{
	pthread_mutex_lock(&cs->lock);
	if (!--cs->naming)
		capture_names_free(&cs->names);
	pthread_mutex_unlock(&cs->lock);
}

void captures_learn(struct captures *cs, const struct addr *a, const char *name, uint32_t len)
{
	pthread_mutex_lock(&cs->lock);
	capture_names_learn(&cs->names, a, name, len);
	pthread_mutex_unlock(&cs->lock);
}

/* Gets what a client needs that captures in pcapng. 0 or -ENOMEM. */
static int begin_pcapng(struct captures *cs, struct capture_client *c)
{
	c->told = calloc(1, sizeof(*c->told));
	if (!c->told || captures_want_names(cs))
		return -ENOMEM;
	c->names = &cs->names;
	c->len += (uint32_t)put_header(c, c->record + c->len);
	return 0;
}

int captures_attach(struct captures *cs, int fd, struct capture_choice choice, bool pcapng, uint64_t file_bytes, const void *first,
		    uint32_t first_len)
{
	struct capture_client c = {
		.fd = fd, .choice = choice, .record = malloc(CAPTURE_CLIENT_BYTES), .len = first_len, .file_bytes = file_bytes};
	int number = 0;

	while (number < CAPTURE_CLIENTS_MAX && cs->client[number].fd >= 0)
		number++;
	if (number == CAPTURE_CLIENTS_MAX || !c.record || first_len > PCAP_RECORD_MAX_BYTES || (pcapng && begin_pcapng(cs, &c))) {
		release(&c);
		return number == CAPTURE_CLIENTS_MAX ? -EBUSY : -ENOMEM;
	}
	memcpy(c.record, first, first_len);
	(void)send_rest(&c);
	pthread_mutex_lock(&cs->lock);
	cs->client[number] = c;
	cs->clients++;
	pthread_mutex_unlock(&cs->lock);
	return number;
}

/* What a client has not got, and the end of its file. */
static uint32_t take_rest(const struct capture_client *c, uint8_t rest[CAPTURE_CLIENT_BYTES])
{
	uint32_t left = c->failed ? 0 : c->len - c->sent;

	if (left)
		memcpy(rest, c->record + c->sent, left);
	return left + (uint32_t)put_end(c, rest + left);
}

uint32_t captures_detach(struct captures *cs, uint32_t number, struct capture_counters *counters,
			 uint8_t rest[CAPTURE_CLIENT_BYTES])
{
	struct capture_client *c = &cs->client[number];
	bool named = c->told;
	uint32_t left;

	*counters = (struct capture_counters){0};
	if (c->fd < 0)
		return 0;
	pthread_mutex_lock(&cs->lock);
	*counters = c->counters;
	left = take_rest(c, rest);
	release(c);
	cs->clients--;
	pthread_mutex_unlock(&cs->lock);
	if (named)
		captures_end_names(cs);
	return left;
}
