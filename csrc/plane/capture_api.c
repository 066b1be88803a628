/* Purpose: the functions of plane_api.h about captures.
 *
 * How: a link has a pointer to all captures while there are any, so that a link without one tests a pointer and nothing more. The
 * captures live as long as the plane: a thread that has read the pointer just before may go on.
 */
#include <errno.h>

#include "plane/plane.h"

_Static_assert(PLANE_CAPTURE_REST_BYTES == CAPTURE_CLIENT_BYTES, "room for a record");

static void tell_links(struct plane *p)
{
	struct captures *captures = p->captures.file || p->captures.clients ? &p->captures : NULL;

	for (uint32_t i = 0; i < p->shard_count; i++)
		atomic_store_explicit(&p->shard[i]->link.captures, captures, memory_order_relaxed);
}

static struct plane_captured captured_of(const struct capture_counters *counters)
{
	return (struct plane_captured){counters->frames, counters->bytes, counters->dropped};
}

int plane_capture(struct plane *p, const struct plane_capture_config *config)
{
	const struct capture_config c = {
		.fds = config->fds,
		.files = config->files,
		.file_bytes = config->file_bytes,
		.pcapng = config->flags & PLANE_CAPTURE_PCAPNG,
		.snaplen = config->snaplen,
		.filter = (const struct packet_filter_insn *)config->filter,
		.filter_len = config->filter_len,
		.names = &p->captures.names,
	};
	int rc = p->captures.file || p->shard_count > 1 ? -EBUSY : 0;

	if (!rc && c.pcapng)
		rc = captures_want_names(&p->captures);
	if (!rc)
		rc = capture_open(&p->captures.file, &c);
	tell_links(p);
	return rc;
}

int plane_capture_end(struct plane *p, struct plane_captured *captured)
{
	struct capture *file = p->captures.file;
	struct capture_counters counters = {0};
	int error;

	threads_stop(p);
	p->captures.file = NULL;
	tell_links(p);
	error = file ? capture_stop(file, &counters) : EINVAL;
	*captured = captured_of(&counters);
	return -error;
}

const char *plane_capture_error_text(int error)
{
	return capture_error_text(error);
}

void plane_capture_name(struct plane *p, const uint8_t addr[16], const char *name, uint32_t len)
{
	const struct addr a = addr_from_v6(addr);

	if (p->captures.naming)
		captures_learn(&p->captures, &a, name, len);
}

int plane_capture_attach(struct plane *p, int fd, const void *filter, uint32_t filter_len, uint32_t snaplen, uint32_t flags,
			 uint64_t file_bytes, const char *first, uint32_t first_len)
{
	struct capture_choice choice;
	int rc = capture_choose(&choice, snaplen, (const struct packet_filter_insn *)filter, filter_len);

	if (!rc)
		rc = captures_attach(&p->captures, fd, choice, flags & PLANE_CAPTURE_PCAPNG, file_bytes, first, first_len);
	tell_links(p);
	return rc;
}

uint32_t plane_capture_detach(struct plane *p, uint32_t number, struct plane_captured *captured, uint8_t *rest)
{
	struct capture_counters counters;
	uint32_t len;

	if (number >= CAPTURE_CLIENTS_MAX)
		return 0;
	len = captures_detach(&p->captures, number, &counters, rest);
	*captured = captured_of(&counters);
	tell_links(p);
	return len;
}
