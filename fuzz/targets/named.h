/* Purpose: what must hold of a reader of wire/server_name.h, for the fuzz targets client_hello and http_host.
 *
 * How: the first byte says where the rest is cut. What a reader says of the first part, unless it wants more, it says of the whole.
 */
#ifndef FUZZ_NAMED_H
#define FUZZ_NAMED_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "wire/server_name.h"

typedef enum server_name_found name_reader(const uint8_t *bytes, uint32_t len, struct server_name *out);

/* Reads a copy of the exact size, so that a read behind the end is found. */
static inline enum server_name_found read_copy(name_reader *reader, const uint8_t *bytes, size_t len, struct server_name *out)
{
	uint8_t *copy = malloc(len ? len : 1);
	enum server_name_found found;

	if (!copy)
		abort();
	memcpy(copy, bytes, len);
	found = reader(copy, (uint32_t)len, out);
	free(copy);
	if (found != SERVER_NAME_FOUND)
		return found;
	if (!out->len || out->len > SERVER_NAME_MAX || out->text[0] == '.' || out->text[out->len - 1] == '.')
		abort();
	for (uint32_t i = 0; i < out->len; i++)
		if (!memchr("abcdefghijklmnopqrstuvwxyz0123456789-_.", out->text[i], 39))
			abort();
	return found;
}

static inline void check_reader(name_reader *reader, const uint8_t *data, size_t len)
{
	struct server_name part = {.len = 0}, whole = {.len = 0};
	enum server_name_found first;
	size_t cut;

	if (!len)
		return;
	cut = (len - 1) * data[0] / 255;
	first = read_copy(reader, data + 1, cut, &part);
	if (first == SERVER_NAME_MORE)
		read_copy(reader, data + 1, len - 1, &whole);
	else if (read_copy(reader, data + 1, len - 1, &whole) != first || part.len != whole.len ||
		 memcmp(part.text, whole.text, part.len) != 0)
		abort();
}

#endif
