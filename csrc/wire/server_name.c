/* How: a ClientHello is read as a stream of bytes through the records that carry it; each length in it is checked against the end of
 * what holds it. A request is read line by line. */
#include "wire/server_name.h"

#include <stdbool.h>
#include <string.h>

#include "base/bytes.h"

/* --- names --- */

static bool is_name_byte(uint8_t c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
}

static uint8_t lower(uint8_t c)
{
	return c >= 'A' && c <= 'Z' ? c | 0x20 : c;
}

static enum server_name_found name(const uint8_t *bytes, uint32_t len, struct server_name *out)
{
	if (len && bytes[len - 1] == '.')
		len--;
	if (!len || len > SERVER_NAME_MAX || bytes[0] == '.')
		return SERVER_NAME_NONE;
	for (uint32_t i = 0; i < len; i++) {
		uint8_t c = lower(bytes[i]);

		if (!is_name_byte(c) || (c == '.' && i + 1 < len && bytes[i + 1] == '.') || (c == '.' && i + 1 == len))
			return SERVER_NAME_NONE;
		out->text[i] = (char)c;
	}
	out->len = (uint8_t)len;
	return SERVER_NAME_FOUND;
}

/* --- TLS --- */

#define RECORD_HANDSHAKE 22 /* RFC 8446, 5.1 */
#define RECORD_VERSION_MAJOR 3
#define RECORD_HEADER_BYTES 5
#define RECORD_MAX_BYTES 16384
#define CLIENT_HELLO 1 /* RFC 8446, 4 */
#define RANDOM_BYTES 32
#define SESSION_ID_MAX_BYTES 32
#define EXTENSION_SERVER_NAME 0 /* RFC 6066, 1.1 */
#define HOST_NAME 0             /* RFC 6066, 3 */

struct hello {
	const uint8_t *bytes;
	uint32_t len, at;
	uint32_t record;             /* bytes left in this record */
	uint32_t read;               /* bytes of the handshake so far */
	enum server_name_found stop; /* why reading has stopped; SERVER_NAME_FOUND: it has not */
};

static bool stop(struct hello *h, enum server_name_found why)
{
	if (h->stop == SERVER_NAME_FOUND)
		h->stop = why;
	return false;
}

/* Wrong bytes are refused as soon as they are there. */
static bool begin_record(struct hello *h)
{
	const uint8_t *p = h->bytes + h->at;
	uint32_t left = h->len - h->at;

	if ((left > 0 && p[0] != RECORD_HANDSHAKE) || (left > 1 && p[1] != RECORD_VERSION_MAJOR))
		return stop(h, SERVER_NAME_WRONG);
	if (left < RECORD_HEADER_BYTES)
		return stop(h, SERVER_NAME_MORE);
	h->record = load_be16(p + 3);
	h->at += RECORD_HEADER_BYTES;
	if (!h->record || h->record > RECORD_MAX_BYTES)
		return stop(h, SERVER_NAME_WRONG);
	return true;
}

/* The next n bytes of the handshake. out: NULL skips them. */
static bool take(struct hello *h, uint8_t *out, uint32_t n)
{
	while (n && h->stop == SERVER_NAME_FOUND) {
		uint32_t part;

		if (!h->record && !begin_record(h))
			return false;
		part = u32_min(u32_min(n, h->record), h->len - h->at);
		if (!part)
			return stop(h, SERVER_NAME_MORE);
		if (out) {
			memcpy(out, h->bytes + h->at, part);
			out += part;
		}
		h->at += part;
		h->record -= part;
		h->read += part;
		n -= part;
	}
	return h->stop == SERVER_NAME_FOUND;
}

/* A number of `bytes` bytes that ends before `end`; 0 also where reading has stopped. */
static uint32_t number(struct hello *h, uint32_t bytes, uint32_t end)
{
	uint8_t b[3] = {0};

	if (h->stop == SERVER_NAME_FOUND && (end < h->read || end - h->read < bytes))
		stop(h, SERVER_NAME_WRONG);
	if (!take(h, b + 3 - bytes, bytes))
		return 0;
	return (uint32_t)b[0] << 16 | (uint32_t)b[1] << 8 | b[2];
}

/* The length of a vector that ends before `end`: where it ends. */
static uint32_t vector(struct hello *h, uint32_t bytes, uint32_t end, uint32_t least, uint32_t most)
{
	uint32_t n = number(h, bytes, end);

	if (h->stop == SERVER_NAME_FOUND && (n < least || n > most || n > end - h->read))
		stop(h, SERVER_NAME_WRONG);
	return h->read + n;
}

static void skip_vector(struct hello *h, uint32_t bytes, uint32_t end, uint32_t least, uint32_t most)
{
	uint32_t to = vector(h, bytes, end, least, most);

	take(h, NULL, to - h->read);
}

/* The extension's list: exactly one name of the kind that there is. */
static enum server_name_found host_name(struct hello *h, uint32_t end, struct server_name *out)
{
	uint8_t text[SERVER_NAME_MAX + 1];
	uint32_t len;

	if (vector(h, 2, end, 1, UINT16_MAX) != end || number(h, 1, end) != HOST_NAME)
		stop(h, SERVER_NAME_WRONG);
	len = vector(h, 2, end, 1, sizeof(text)) - h->read;
	if (h->stop == SERVER_NAME_FOUND && h->read + len != end)
		stop(h, SERVER_NAME_WRONG);
	if (!take(h, text, len))
		return SERVER_NAME_WRONG;
	return name(text, len, out);
}

static enum server_name_found extensions(struct hello *h, uint32_t end, struct server_name *out)
{
	enum server_name_found found = SERVER_NAME_NONE;
	bool seen = false;

	if (h->read == end) /* before TLS 1.2 there may be none */
		return found;
	if (vector(h, 2, end, 0, UINT16_MAX) != end)
		stop(h, SERVER_NAME_WRONG);
	while (h->stop == SERVER_NAME_FOUND && h->read < end) {
		uint32_t kind = number(h, 2, end), to = vector(h, 2, end, 0, UINT16_MAX);

		if (h->stop != SERVER_NAME_FOUND)
			break;
		if (kind != EXTENSION_SERVER_NAME) {
			take(h, NULL, to - h->read);
			continue;
		}
		if (seen)
			stop(h, SERVER_NAME_WRONG);
		seen = true;
		found = host_name(h, to, out);
	}
	return found;
}

enum server_name_found server_name_in_hello(const uint8_t *bytes, uint32_t len, struct server_name *out)
{
	struct hello h = {.bytes = bytes, .len = len, .stop = SERVER_NAME_FOUND};
	enum server_name_found found;
	uint32_t end;

	if (number(&h, 1, UINT32_MAX) != CLIENT_HELLO)
		stop(&h, SERVER_NAME_WRONG);
	end = vector(&h, 3, UINT32_MAX, 0, UINT32_MAX);
	take(&h, NULL, 2 + RANDOM_BYTES); /* and the version before it */
	skip_vector(&h, 1, end, 0, SESSION_ID_MAX_BYTES);
	skip_vector(&h, 2, end, 2, UINT16_MAX); /* cipher suites */
	skip_vector(&h, 1, end, 1, UINT8_MAX);  /* ways of compression */
	found = h.stop == SERVER_NAME_FOUND ? extensions(&h, end, out) : SERVER_NAME_NONE;
	return h.stop == SERVER_NAME_FOUND ? found : h.stop;
}

/* --- HTTP --- */

#define METHOD_MAX 32
#define VERSION "HTTP/1."
#define SCHEME "http://"

struct span {
	const uint8_t *at;
	uint32_t len;
};

/* RFC 9110, 5.6.2 */
static bool is_token_byte(uint8_t c)
{
	return c > ' ' && c < 0x7f && !strchr("\"(),/:;<=>?@[\\]{}", c);
}

static bool is_token(struct span s)
{
	for (uint32_t i = 0; i < s.len; i++)
		if (!is_token_byte(s.at[i]))
			return false;
	return s.len;
}

static bool begins(struct span s, const char *word)
{
	uint32_t len = (uint32_t)strlen(word);

	if (s.len < len)
		return false;
	for (uint32_t i = 0; i < len; i++)
		if (lower(s.at[i]) != lower((uint8_t)word[i]))
			return false;
	return true;
}

/* What is before the first c, and *s what is behind it. False: there is none. */
static bool cut(struct span *s, char c, struct span *before)
{
	const uint8_t *found = s->len ? memchr(s->at, c, s->len) : NULL;

	if (!found)
		return false;
	*before = (struct span){s->at, (uint32_t)(found - s->at)};
	*s = (struct span){found + 1, s->len - before->len - 1};
	return true;
}

/* A line without its end (RFC 9112, 2.2). */
static enum server_name_found next_line(struct span *rest, struct span *line)
{
	if (!cut(rest, '\n', line))
		return SERVER_NAME_MORE;
	if (!line->len || line->at[line->len - 1] != '\r')
		return SERVER_NAME_WRONG;
	line->len--;
	for (uint32_t i = 0; i < line->len; i++)
		if ((line->at[i] < ' ' && line->at[i] != '\t') || line->at[i] == 0x7f)
			return SERVER_NAME_WRONG;
	return SERVER_NAME_FOUND;
}

/* An authority's host, without a port. */
static enum server_name_found authority(struct span s, struct server_name *out)
{
	struct span host;

	if (cut(&s, ':', &host)) {
		for (uint32_t i = 0; i < s.len; i++)
			if (s.at[i] < '0' || s.at[i] > '9')
				return SERVER_NAME_NONE;
		s = host;
	}
	return name(s.at, s.len, out);
}

/* METHOD TARGET HTTP/1.x; *target is an authority where the target has one (RFC 9112, 3.2.2). */
static bool request_line(struct span line, struct span *target)
{
	struct span method, rest = line;

	if (!cut(&rest, ' ', &method) || !is_token(method) || !cut(&rest, ' ', target) || rest.len != sizeof(VERSION) ||
	    memcmp(rest.at, VERSION, sizeof(VERSION) - 1) != 0 || rest.at[rest.len - 1] < '0' || rest.at[rest.len - 1] > '9' ||
	    !target->len)
		return false;
	if (target->at[0] == '/' || (target->len == 1 && target->at[0] == '*')) {
		target->len = 0;
		return true;
	}
	if (!begins(*target, SCHEME))
		return false;
	*target = (struct span){target->at + strlen(SCHEME), target->len - (uint32_t)strlen(SCHEME)};
	rest = *target;
	if (!cut(&rest, '/', target) && !cut(&rest, '?', target))
		*target = rest;
	return target->len && !memchr(target->at, '?', target->len);
}

static struct span trimmed(struct span s)
{
	while (s.len && (s.at[0] == ' ' || s.at[0] == '\t'))
		s = (struct span){s.at + 1, s.len - 1};
	while (s.len && (s.at[s.len - 1] == ' ' || s.at[s.len - 1] == '\t'))
		s.len--;
	return s;
}

/* What the beginning of the first line says already. */
static enum server_name_found method_so_far(const uint8_t *bytes, uint32_t len)
{
	uint32_t i = 0;

	while (i < len && i < METHOD_MAX && is_token_byte(bytes[i]))
		i++;
	return i == len || (i && bytes[i] == ' ') ? SERVER_NAME_MORE : SERVER_NAME_WRONG;
}

enum server_name_found server_name_in_request(const uint8_t *bytes, uint32_t len, struct server_name *out)
{
	struct span rest = {bytes, len}, line, target, field, host = {0};
	enum server_name_found found = method_so_far(bytes, len);
	struct server_name targeted;

	if (found == SERVER_NAME_WRONG)
		return found;
	found = next_line(&rest, &line);
	if (found != SERVER_NAME_FOUND)
		return found;
	if (!request_line(line, &target))
		return SERVER_NAME_WRONG;
	while ((found = next_line(&rest, &line)) == SERVER_NAME_FOUND && line.len) {
		if (!cut(&line, ':', &field) || !is_token(field))
			return SERVER_NAME_WRONG;
		if (field.len != strlen("host") || !begins(field, "host"))
			continue;
		if (host.at)
			return SERVER_NAME_WRONG; /* RFC 9112, 3.2 */
		host = trimmed(line);
	}
	if (found != SERVER_NAME_FOUND)
		return found;
	found = authority(host, out);
	if (found != SERVER_NAME_FOUND || !target.len)
		return found;
	if (authority(target, &targeted) != SERVER_NAME_FOUND || targeted.len != out->len ||
	    memcmp(targeted.text, out->text, out->len) != 0)
		return SERVER_NAME_WRONG;
	return SERVER_NAME_FOUND;
}
