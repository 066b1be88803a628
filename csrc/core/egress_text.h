/* Purpose: rules of the egress policy as people write them, and as bytes, which plane_egress() of plane_api.h describes. Pure.
 *
 *   RULE   := DEST[:PORT[-PORT]][/PROTO]
 *   DEST   := * | NAME[=LIMIT] | *.NAME[=LIMIT] | ADDR | PREFIX | GROUP          IPv6 in brackets, with its length inside them
 *   LIMIT  := ADDR | PREFIX | GROUP                                              what the name may resolve into
 *   GROUP  := @host | @lan | @private | @metadata | @multicast | @internet
 *   PROTO  := tcp | udp | icmp | tls | http
 *
 * Without port and protocol a rule is for all of tcp, udp and icmp; with a port alone for tcp and udp. tls and http are for a name: tcp
 * that has to name it; without a port they are for port 443 and 80.
 *
 * How: this is the one reader of the grammar: Python has none. It reads ASCII. A name that is not ASCII is handed back, because what
 * it is in DNS (RFC 5891) needs tables that Python has; the caller puts that in its place and reads again.
 *
 * Invariants: a text that is no rule is refused and never becomes a wider one. Printing is the inverse of reading.
 */
#ifndef PASTA_CORE_EGRESS_TEXT_H
#define PASTA_CORE_EGRESS_TEXT_H

#include <stdbool.h>
#include <stdint.h>

/* cdef begin */

/* Bytes of a rule at most: head, name and its length, prefix; of its text: a name with a prefix and both ports. */
#define EGRESS_RULE_BYTES 279
#define EGRESS_RULE_CHARS 340
#define EGRESS_WHY_CHARS 240

/* What is wrong with a text. `why` ends with a zero. */
struct egress_refusal {
	uint32_t line;    /* of a file, from 1 */
	uint32_t at, end; /* what is meant: bytes of the text, or of the file */
	bool whole_line;  /* not a rule, but its line is wrong */
	bool foreign;     /* nothing is wrong but that the name from `at` to `end` is not ASCII */
	char why[EGRESS_WHY_CHARS];
};

/* The bytes of a rule; 0: it is refused. */
uint32_t egress_text_read(const char *text, uint32_t len, bool allow, uint8_t *out, struct egress_refusal *no);
/* The text of the rule at the beginning of `rules`, and its characters; *bytes: those of the rule. 0: there is none. */
uint32_t egress_text_print(const uint8_t *rules, uint32_t len, char *out, uint32_t *bytes);

enum { EGRESS_UNSAID, EGRESS_OPEN, EGRESS_INTERNET_ONLY, EGRESS_NONE }; /* presets */

/* A file that is being read: all that it says so far. Begins with zeroes but for `path`. */
struct egress_file {
	const char *path; /* for `texts`: where each rule stands */
	uint8_t *rules;   /* their bytes */
	char *texts;      /* of each rule "PATH:LINE", a tab, "allow RULE" or "deny RULE", a tab, its note, a newline */
	uint32_t rules_len, rules_room, texts_len, texts_room;
	uint32_t count, preset;
	uint32_t at, line; /* where reading goes on */
};

/* Reads on to the end of the file, which is UTF-8 text. 0; -EINVAL: a line is refused; -ENOMEM. After a refusal because of a foreign
 * name it can go on with a file that differs from f->at on alone. */
int egress_file_read(struct egress_file *f, const char *data, uint32_t len, struct egress_refusal *no);
void egress_file_free(struct egress_file *f);

/* A rule that never decides because of an earlier one. `earlier`: EGRESS_TOO_WIDE: it decides, for all names below a top domain. */
#define EGRESS_TOO_WIDE 0xffff
struct egress_remark {
	uint16_t rule, earlier;
};
/* What is remarkable about the rules of a policy, in their order. Returns how many remarks were made, at most `room`; -EINVAL,
 * -ENOMEM. Long lists of rules for one destination are not compared to their end. */
int egress_remarks(const uint8_t *policy, uint32_t len, struct egress_remark *out, uint32_t room);

/* cdef end */

#endif
