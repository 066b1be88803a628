/* Purpose: fuzz target: answers of proxies (core/handshake.h).
 *
 * How: the first byte says which proxy, the second whether there are a name and credentials, the third in how large pieces the rest
 * comes. In one piece and in many it must mean the same, and nothing may be taken behind the end of the answer.
 */
#include <stdlib.h>
#include <string.h>

#include "core/handshake.h"
#include "kernel.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void say(struct handshake *h, uint32_t most)
{
	uint32_t len, said = 0;

	while (handshake_says(h, &len), len) {
		said += len < most ? len : most;
		handshake_sent(h, len < most ? len : most);
	}
	if (said > HANDSHAKE_SAID_BYTES)
		abort();
}

/* Returns how many bytes it took. */
static uint32_t answer(struct handshake *h, const uint8_t *bytes, uint32_t len, uint32_t piece)
{
	uint32_t at = 0;

	say(h, piece);
	while (at < len && h->state == HANDSHAKE_GOES_ON) {
		uint32_t part = len - at < piece ? len - at : piece, taken;
		uint8_t *exact = malloc(part); /* so that a read behind the end is found */

		if (!exact)
			exit(1);
		memcpy(exact, bytes + at, part);
		taken = handshake_take(h, exact, part);
		free(exact);
		if (taken > part || (!taken && h->state == HANDSHAKE_GOES_ON))
			abort();
		at += taken;
		say(h, piece);
	}
	return at;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static const struct handshake_auth auth = {.user_len = 2, .password_len = 4, .user = "me", .password = "pass"};
	struct handshake_ends ends = {.from = {addr_from_v4("\12\0\2\17"), 40000}, .to = {addr_from_v4("\306\63\144\7"), 443}};
	struct handshake whole, cut;
	enum handshake_kind kind;
	uint32_t taken;

	if (len < 3)
		return 0;
	kind = data[0] & 1 ? HANDSHAKE_SOCKS5 : HANDSHAKE_HTTP;
	if (data[1] & 1) {
		ends.name = "a.test";
		ends.name_len = 6;
	}
	handshake_begin(&whole, kind, &ends, data[1] & 2 ? &auth : NULL);
	handshake_begin(&cut, kind, &ends, data[1] & 2 ? &auth : NULL);
	taken = answer(&whole, data + 3, (uint32_t)len - 3, UINT32_MAX);
	if (answer(&cut, data + 3, (uint32_t)len - 3, data[2] + 1u) != taken || whole.state != cut.state || whole.code != cut.code)
		abort();
	if (whole.state == HANDSHAKE_REFUSED && !handshake_error(&whole))
		abort();
	return 0;
}
