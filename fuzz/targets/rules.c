/* Purpose: fuzz target: rules of the egress policy as text (core/egress_text.h) and as bytes (core/egress.h).
 *
 * How: the first byte says what the rest is: one rule, a file, or the bytes of a policy. What is read as a rule must be printed as
 * text that is read as the same rule. What is a policy must answer questions, and its remarks must name earlier rules.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "core/egress.h"
#include "core/egress_text.h"
#include "kernel.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

enum { ALLOW, DENY, RULES_FILE, POLICY };

#define REMARKS 64

static void check_rule(const uint8_t *rule, uint32_t bytes, bool allow)
{
	uint8_t again[EGRESS_RULE_BYTES];
	char text[EGRESS_RULE_CHARS];
	struct egress_refusal no = {0};
	uint32_t used, chars = egress_text_print(rule, bytes, text, &used);

	if (!chars || used != bytes || egress_text_read(text, chars, allow, again, &no) != bytes || memcmp(rule, again, bytes) != 0)
		abort();
}

static void one_rule(const char *text, uint32_t len, bool allow)
{
	uint8_t rule[EGRESS_RULE_BYTES];
	struct egress_refusal no = {0};
	uint32_t bytes = egress_text_read(text, len, allow, rule, &no);

	if (bytes)
		check_rule(rule, bytes, allow);
	else if (no.at > len || !memchr(no.why, 0, sizeof(no.why)) || !no.why[0])
		abort();
}

static void file(const char *text, uint32_t len)
{
	struct egress_file f = {.path = "rules"};
	struct egress_refusal no = {0};
	uint32_t lines = 0, at = 0;
	int rc = egress_file_read(&f, text, len, &no);

	if (rc != 0 && rc != -EINVAL)
		abort();
	for (uint32_t i = 0; i < f.texts_len; i++)
		lines += f.texts[i] == '\n';
	for (uint32_t i = 0; i < f.count; i++) {
		char shown[EGRESS_RULE_CHARS];
		uint32_t bytes;

		if (!egress_text_print(f.rules + at, f.rules_len - at, shown, &bytes))
			abort();
		check_rule(f.rules + at, bytes, f.rules[at]);
		at += bytes;
	}
	if (lines != f.count || at != f.rules_len)
		abort();
	egress_file_free(&f);
}

static void policy(const uint8_t *bytes, uint32_t len)
{
	const struct siphash_key key = {{1, 2}};
	const struct addr v4 = addr_from_v4((const uint8_t[]){10, 0, 0, 1}), v6 = {{0x20, 1, 0xd, 0xb8, 1}};
	struct egress_remark remarks[REMARKS];
	struct egress *e;
	int made = egress_new(bytes, len, &key, &e), remarked = egress_remarks(bytes, len, remarks, REMARKS);

	if ((made == 0) != (remarked >= 0))
		abort();
	for (int i = 0; i < remarked; i++)
		if (remarks[i].earlier != EGRESS_TOO_WIDE && remarks[i].earlier >= remarks[i].rule)
			abort();
	if (made)
		return;
	egress_pin(e, &v4, "a.test", 6, 0, 10);
	egress_verdict(e, 6, &v4, &v4, 443, 5);
	egress_verdict(e, 17, &v6, &v4, 53, 20);
	egress_name_verdict(e, "x.a.test", 8);
	egress_address_verdict(e, "a.test", 6, &v6);
	egress_named(e, "test", 4);
	egress_replace(e, bytes, len);
	egress_free(e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	uint32_t size = (uint32_t)len - 1;
	char *text;

	if (!len)
		return 0;
	text = malloc(size ? size : 1); /* of the exact size, so that a read behind the end is found */
	if (!text)
		return 0;
	memcpy(text, data + 1, size);
	switch (data[0] % 4) {
	case RULES_FILE:
		file(text, size);
		break;
	case POLICY:
		policy((const uint8_t *)text, size);
		break;
	default:
		one_rule(text, size, data[0] % 4 == ALLOW);
	}
	free(text);
	return 0;
}
