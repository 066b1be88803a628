/* How: all that may be said is written at the beginning, and sent in parts: for SOCKS the greeting, the credentials if they are asked
 * for, the request. Answers are taken byte by byte, so it does not matter how they are cut.
 *
 * Rejected: SOCKS without waiting for each answer: a proxy that asks for credentials would take the request for them.
 */
#include "core/handshake.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"

/* RFC 1928, 3 to 6; RFC 1929, 2. */
#define SOCKS_VERSION 5
#define SOCKS_NO_AUTH 0
#define SOCKS_PASSWORD 2
#define SOCKS_NO_METHOD 255
#define SOCKS_CONNECT 1
#define SOCKS_IPV4 1
#define SOCKS_NAME 3
#define SOCKS_IPV6 4
#define SOCKS_PASSWORD_VERSION 1

enum socks_step { SOCKS_METHOD, SOCKS_AUTH, SOCKS_REPLY, SOCKS_BOUND };
enum http_step { HTTP_STATUS, HTTP_FIELDS };

/* --- what is said --- */

static void say(struct handshake *h, const void *bytes, uint32_t len)
{
	memcpy(h->said + h->said_len, bytes, len);
	h->said_len = (uint16_t)(h->said_len + len);
}

static void say_byte(struct handshake *h, uint8_t byte)
{
	say(h, &byte, 1);
}

static void say_port(struct handshake *h, uint16_t port)
{
	uint8_t bytes[2];

	store_be16(bytes, port);
	say(h, bytes, 2);
}

static void say_addr(struct handshake *h, const struct addr *a, bool v4)
{
	say(h, a->b + (v4 ? 12 : 0), v4 ? 4 : 16);
}

/* haproxy.org, proxy-protocol.txt, 2.2. */
static void say_proxy_v2(struct handshake *h, const struct handshake_ends *ends)
{
	static const uint8_t signature[12] = "\r\n\r\n\0\r\nQUIT\n";
	bool v4 = addr_is_v4(&ends->to.addr);

	say(h, signature, sizeof(signature));
	say_byte(h, 0x21);             /* version 2, PROXY */
	say_byte(h, v4 ? 0x11 : 0x21); /* TCP over IPv4, IPv6 */
	say_port(h, v4 ? 12 : 36);
	say_addr(h, &ends->from.addr, v4);
	say_addr(h, &ends->to.addr, v4);
	say_port(h, ends->from.port);
	say_port(h, ends->to.port);
}

static void say_socks(struct handshake *h, const struct handshake_ends *ends, const struct handshake_auth *auth)
{
	bool v4 = addr_is_v4(&ends->to.addr);
	uint16_t before;

	say_byte(h, SOCKS_VERSION);
	say_byte(h, auth ? 2 : 1);
	say_byte(h, SOCKS_NO_AUTH);
	if (auth)
		say_byte(h, SOCKS_PASSWORD);
	before = h->said_len;
	if (auth) {
		say_byte(h, SOCKS_PASSWORD_VERSION);
		say_byte(h, auth->user_len);
		say(h, auth->user, auth->user_len);
		say_byte(h, auth->password_len);
		say(h, auth->password, auth->password_len);
	}
	h->auth_len = (uint16_t)(h->said_len - before);
	before = h->said_len;
	say_byte(h, SOCKS_VERSION);
	say_byte(h, SOCKS_CONNECT);
	say_byte(h, 0);
	say_byte(h, ends->name_len ? SOCKS_NAME : v4 ? SOCKS_IPV4 : SOCKS_IPV6);
	if (ends->name_len) {
		say_byte(h, (uint8_t)ends->name_len);
		say(h, ends->name, ends->name_len);
	} else {
		say_addr(h, &ends->to.addr, v4);
	}
	say_port(h, ends->to.port);
	h->request_len = (uint16_t)(h->said_len - before);
	h->said_len = (uint16_t)(h->said_len - h->auth_len - h->request_len); /* only the greeting, for now */
	h->want = 2;
}

/* RFC 4648, 4. */
static void say_base64(struct handshake *h, const uint8_t *bytes, uint32_t len)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

	for (uint32_t i = 0; i < len; i += 3) {
		uint32_t left = len - i, three = (uint32_t)bytes[i] << 16;

		three |= left > 1 ? (uint32_t)bytes[i + 1] << 8 : 0;
		three |= left > 2 ? bytes[i + 2] : 0;
		say_byte(h, (uint8_t)digits[three >> 18]);
		say_byte(h, (uint8_t)digits[three >> 12 & 63]);
		say_byte(h, left > 1 ? (uint8_t)digits[three >> 6 & 63] : '=');
		say_byte(h, left > 2 ? (uint8_t)digits[three & 63] : '=');
	}
}

static void say_http(struct handshake *h, const struct handshake_ends *ends, const struct handshake_auth *auth)
{
	char authority[HANDSHAKE_NAME_MAX + 8], text[ADDR_STR_LEN];
	uint8_t both[2 * HANDSHAKE_AUTH_MAX + 1];
	uint32_t len;

	if (ends->name_len)
		len = (uint32_t)snprintf(authority, sizeof(authority), "%.*s:%u", (int)ends->name_len, ends->name, ends->to.port);
	else
		len = (uint32_t)snprintf(authority, sizeof(authority), addr_is_v4(&ends->to.addr) ? "%s:%u" : "[%s]:%u",
					 addr_str(&ends->to.addr, text), ends->to.port);
	say(h, "CONNECT ", 8);
	say(h, authority, len);
	say(h, " HTTP/1.1\r\nHost: ", 17);
	say(h, authority, len);
	if (auth) {
		memcpy(both, auth->user, auth->user_len);
		both[auth->user_len] = ':';
		memcpy(both + auth->user_len + 1, auth->password, auth->password_len);
		say(h, "\r\nProxy-Authorization: Basic ", 29);
		say_base64(h, both, auth->user_len + 1u + auth->password_len);
	}
	say(h, "\r\n\r\n", 4);
}

/* A name of other characters could end a line of HTTP. Hosts have none of these (RFC 1123, 2.1). */
static bool is_plain(const char *name, uint32_t len)
{
	for (uint32_t i = 0; i < len; i++) {
		char c = name[i];

		if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.'))
			return false;
	}
	return len <= HANDSHAKE_NAME_MAX;
}

void handshake_begin(struct handshake *h, enum handshake_kind kind, const struct handshake_ends *given,
		     const struct handshake_auth *auth)
{
	struct handshake_ends known = *given, *ends = &known;

	if (auth && !auth->user_len)
		auth = NULL;
	if (!is_plain(known.name, known.name_len))
		known.name_len = 0;
	memset(h, 0, offsetof(struct handshake, said));
	h->kind = (uint8_t)kind;
	switch (kind) {
	case HANDSHAKE_NONE:
		h->state = HANDSHAKE_DONE;
		break;
	case HANDSHAKE_PROXY_V2:
		say_proxy_v2(h, ends);
		break;
	case HANDSHAKE_SOCKS5:
		say_socks(h, ends, auth);
		break;
	case HANDSHAKE_HTTP:
		say_http(h, ends, auth);
		break;
	}
}

const uint8_t *handshake_says(const struct handshake *h, uint32_t *len)
{
	*len = h->state == HANDSHAKE_GOES_ON ? (uint32_t)(h->said_len - h->said_at) : 0;
	return h->said + h->said_at;
}

void handshake_sent(struct handshake *h, uint32_t len)
{
	h->said_at = (uint16_t)(h->said_at + len);
	if (h->kind == HANDSHAKE_PROXY_V2 && h->said_at == h->said_len)
		h->state = HANDSHAKE_DONE;
}

/* --- what is heard --- */

static void refuse(struct handshake *h, uint16_t code)
{
	h->state = HANDSHAKE_REFUSED;
	h->code = code;
}

static void socks_request(struct handshake *h)
{
	h->said_at = h->said_len;
	h->said_len = (uint16_t)(h->said_len + h->request_len);
	h->step = SOCKS_REPLY;
	h->want = 5; /* to the length of a name, if the address is one */
}

static void socks_method(struct handshake *h)
{
	uint8_t method = h->got[1];

	if (h->got[0] != SOCKS_VERSION || (method != SOCKS_NO_AUTH && (method != SOCKS_PASSWORD || !h->auth_len))) {
		refuse(h, h->got[0] == SOCKS_VERSION && method == SOCKS_NO_METHOD ? SOCKS_NO_METHOD : 0);
	} else if (method == SOCKS_PASSWORD) {
		h->said_len = (uint16_t)(h->said_len + h->auth_len);
		h->step = SOCKS_AUTH;
		h->want = 2;
	} else {
		h->said_len = (uint16_t)(h->said_len + h->auth_len); /* not asked for */
		socks_request(h);
	}
}

/* Bytes of the address and the port behind the first five of a reply; 0: the reply has no form. A name of 254 or 255 bytes is none
 * (RFC 1035, 2.3.4). */
static uint8_t bound_bytes(const uint8_t got[5])
{
	if (got[0] != SOCKS_VERSION || got[2])
		return 0;
	switch (got[3]) {
	case SOCKS_IPV4:
		return 3 + 2;
	case SOCKS_IPV6:
		return 15 + 2;
	case SOCKS_NAME:
		return got[4] <= HANDSHAKE_NAME_MAX ? (uint8_t)(got[4] + 2) : 0;
	default:
		return 0;
	}
}

/* All `want` bytes of a part are there. */
static void socks_part(struct handshake *h)
{
	h->got_len = 0;
	switch ((enum socks_step)h->step) {
	case SOCKS_METHOD:
		socks_method(h);
		break;
	case SOCKS_AUTH:
		if (h->got[0] != SOCKS_PASSWORD_VERSION || h->got[1])
			refuse(h, h->got[0] == SOCKS_PASSWORD_VERSION ? SOCKS_NO_METHOD : 0);
		else
			socks_request(h);
		break;
	case SOCKS_REPLY:
		h->want = bound_bytes(h->got);
		h->step = SOCKS_BOUND;
		if (!h->want || h->got[1])
			refuse(h, h->got[0] == SOCKS_VERSION ? h->got[1] : 0);
		break;
	case SOCKS_BOUND:
		h->state = HANDSHAKE_DONE;
		break;
	}
}

static void socks_byte(struct handshake *h, uint8_t byte)
{
	if (h->got_len < sizeof(h->got))
		h->got[h->got_len] = byte;
	if (++h->got_len == h->want)
		socks_part(h);
}

/* "HTTP/1.x NNN" (RFC 9112, 4); digit n of the status is byte 9 + n. */
static void status_byte(struct handshake *h, uint8_t byte)
{
	static const char form[] = "HTTP/1.? ";
	uint32_t at = h->got_len;
	bool wrong = false;

	if (at < 9)
		wrong = form[at] != '?' && byte != (uint8_t)form[at];
	else if (at < 12)
		wrong = byte < '0' || byte > '9';
	else if (at == 12)
		wrong = byte != ' ' && byte != '\r' && byte != '\n';
	if (wrong)
		refuse(h, 0);
	else if (at >= 9 && at < 12)
		h->code = (uint16_t)(h->code * 10 + byte - '0');
	h->got_len++;
}

/* RFC 9110, 15.2: responses that may come before the final one, whether asked for or not. 101 would be another protocol. */
static bool is_interim(uint16_t code)
{
	return code >= 100 && code < 200 && code != 101;
}

static void http_fields_end(struct handshake *h)
{
	if (!is_interim(h->code)) {
		h->state = HANDSHAKE_DONE;
		return;
	}
	h->step = HTTP_STATUS;
	h->code = 0;
}

static void http_byte(struct handshake *h, uint8_t byte)
{
	if (++h->taken > HANDSHAKE_ANSWER_BYTES) {
		refuse(h, 0);
		return;
	}
	if (h->step == HTTP_STATUS) {
		status_byte(h, byte);
		if (h->state != HANDSHAKE_GOES_ON || byte != '\n')
			return;
		h->step = HTTP_FIELDS;
		h->got_len = 0;
		if (!is_interim(h->code) && (h->code < 200 || h->code > 299))
			refuse(h, h->code);
	} else if (byte == '\n') { /* the line may lack its CR (RFC 9112, 2.2) */
		if (!h->got_len)
			http_fields_end(h);
		h->got_len = 0;
	} else if (byte != '\r') {
		h->got_len++;
	}
}

uint32_t handshake_take(struct handshake *h, const uint8_t *bytes, uint32_t len)
{
	uint32_t at = 0;

	/* An answer that comes before all is said answers something else. */
	if (len && h->state == HANDSHAKE_GOES_ON && h->said_at < h->said_len)
		refuse(h, 0);
	while (at < len && h->state == HANDSHAKE_GOES_ON && h->said_at == h->said_len) {
		if (h->kind == HANDSHAKE_SOCKS5)
			socks_byte(h, bytes[at++]);
		else
			http_byte(h, bytes[at++]);
	}
	return at;
}

int handshake_error(const struct handshake *h)
{
	/* RFC 1928, 6; RFC 9110, 15. */
	if (h->kind == HANDSHAKE_SOCKS5)
		return h->code == 3 ? ENETUNREACH : h->code == 4 || h->code == 6 ? EHOSTUNREACH : ECONNREFUSED;
	return h->code == 504 ? EHOSTUNREACH : ECONNREFUSED;
}
