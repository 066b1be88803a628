/* How: one pass over the lines. What a line says is appended to the bytes and the texts of all rules.
 *
 * Invariants: a line is taken whole or not at all; control characters reach no text.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "core/egress_rules.h"
#include "core/egress_text.h"

#define NOTE_MAX 200 /* bytes of a note that are kept */
#define LINE_NUMBER_CHARS 12
#define QUOTED 80 /* bytes of a line that a message repeats */
#define WHOLE UINT32_MAX

struct words {
	const char *line; /* begins the file or follows a newline */
	uint32_t len;     /* up to a note, a carriage return or the newline */
	const char *word[2];
	uint32_t word_len[2];
	uint32_t count;
	const char *note;
	uint32_t note_len;
};

static bool blank(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static void trim(const char **text, uint32_t *len)
{
	while (*len && blank(**text)) {
		++*text;
		--*len;
	}
	while (*len && blank((*text)[*len - 1]))
		--*len;
}

static struct words split(const char *line, uint32_t len)
{
	struct words w = {.line = line, .len = len};
	const char *hash = memchr(line, '#', len);

	if (hash) {
		w.note = hash + 1;
		w.note_len = len - (uint32_t)(hash + 1 - line);
		w.len = (uint32_t)(hash - line);
		trim(&w.note, &w.note_len);
	}
	for (uint32_t i = 0; i < w.len;) {
		uint32_t from = i;

		while (i < w.len && !blank(line[i]))
			i++;
		if (i > from) {
			if (w.count < 2) {
				w.word[w.count] = line + from;
				w.word_len[w.count] = i - from;
			}
			w.count++;
		} else {
			i++;
		}
	}
	return w;
}

static bool is(const struct words *w, uint32_t at, const char *word)
{
	return w->word_len[at] == strlen(word) && !memcmp(w->word[at], word, w->word_len[at]);
}

/* Room for some bytes more, of which *len are used. */
static bool make_room(void **data, uint32_t len, uint32_t *room, uint32_t more)
{
	uint32_t wanted = *room ? *room : 4096;
	void *larger;

	if (more > UINT32_MAX / 4 - len)
		return false;
	while (wanted < len + more)
		wanted *= 2;
	if (wanted == *room)
		return true;
	larger = realloc(*data, wanted);
	if (!larger)
		return false;
	*data = larger;
	*room = wanted;
	return true;
}

static char *put_plain(char *p, const char *text, uint32_t len)
{
	for (uint32_t i = 0; i < len; i++)
		*p++ = (uint8_t)text[i] < ' ' || text[i] == 0x7f ? ' ' : text[i];
	return p;
}

static int add_rule(struct egress_file *f, const struct words *w, bool allow, const char *data, struct egress_refusal *no)
{
	uint32_t path_len = (uint32_t)strlen(f->path), note_len = w->note_len < NOTE_MAX ? w->note_len : NOTE_MAX, bytes;
	void *rules = f->rules, *texts = f->texts;
	char *p;

	if (!make_room(&rules, f->rules_len, &f->rules_room, EGRESS_RULE_BYTES))
		return -ENOMEM;
	f->rules = rules;
	if (!make_room(&texts, f->texts_len, &f->texts_room, path_len + LINE_NUMBER_CHARS + EGRESS_RULE_CHARS + 16 + note_len))
		return -ENOMEM;
	f->texts = texts;
	bytes = egress_text_read(w->word[1], w->word_len[1], allow, f->rules + f->rules_len, no);
	if (!bytes) {
		no->at += (uint32_t)(w->word[1] - data);
		no->end += (uint32_t)(w->word[1] - data);
		return -EINVAL;
	}
	p = put_plain(f->texts + f->texts_len, f->path, path_len);
	p += sprintf(p, ":%u\t%s ", f->line, allow ? "allow" : "deny");
	p += egress_text_print(f->rules + f->rules_len, bytes, p, &bytes);
	*p++ = '\t';
	while (note_len && note_len < w->note_len &&
	       ((uint8_t)w->note[note_len] & 0xc0) == 0x80) /* within a character (RFC 3629) */
		note_len--;
	p = put_plain(p, w->note, note_len);
	*p++ = '\n';
	f->texts_len = (uint32_t)(p - f->texts);
	f->rules_len += bytes;
	f->count++;
	return 0;
}

/* The reason has one "%.*s" for what it quotes: a word, by its number, or the whole line. */
static int refuse(struct egress_refusal *no, const struct words *w, uint32_t word, const char *why)
{
	const char *text = word < w->count ? w->word[word] : w->line;
	uint32_t len = word < w->count ? w->word_len[word] : w->len;

	trim(&text, &len);
	snprintf(no->why, sizeof(no->why), why, (int)(len < QUOTED ? len : QUOTED), text);
	no->whole_line = true;
	return -EINVAL;
}

static int set_preset(struct egress_file *f, const struct words *w, struct egress_refusal *no)
{
	static const char *const names[] = {[EGRESS_OPEN] = "open", [EGRESS_INTERNET_ONLY] = "internet", [EGRESS_NONE] = "none"};
	uint32_t said = EGRESS_UNSAID;

	for (uint32_t i = EGRESS_OPEN; i <= EGRESS_NONE; i++)
		if (is(w, 1, names[i]))
			said = i;
	if (!said)
		return refuse(no, w, 1, "'%.*s' is no default: open, internet, none are accepted");
	if (f->preset)
		return refuse(no, w, WHOLE, "'%.*s' is a second default: one line of a file says it");
	f->preset = said;
	return 0;
}

static int take_line(struct egress_file *f, const struct words *w, const char *data, struct egress_refusal *no)
{
	if (!w->count)
		return 0;
	if (w->count == 2 && (is(w, 0, "allow") || is(w, 0, "deny")))
		return add_rule(f, w, is(w, 0, "allow"), data, no);
	if (w->count == 2 && is(w, 0, "default"))
		return set_preset(f, w, no);
	if (w->count == 2 && is(w, 0, "version"))
		return is(w, 1, "1") ? 0 : refuse(no, w, 1, "version '%.*s' is not known: 1 is");
	return refuse(no, w, WHOLE,
		      "'%.*s' is not understood: 'allow RULE', 'deny RULE', 'default PRESET' and 'version 1' are accepted");
}

int egress_file_read(struct egress_file *f, const char *data, uint32_t len, struct egress_refusal *no)
{
	while (f->at < len) {
		const char *line = data + f->at, *newline = memchr(line, '\n', len - f->at);
		uint32_t line_len = newline ? (uint32_t)(newline - line) : len - f->at;
		struct words w = split(line, line_len);
		int rc;

		f->line++;
		no->line = f->line;
		no->foreign = no->whole_line = false;
		no->at = no->end = 0;
		rc = take_line(f, &w, data, no);
		if (rc) {
			f->line--; /* it is read again */
			return rc;
		}
		f->at += line_len + (newline != NULL);
	}
	return 0;
}

void egress_file_free(struct egress_file *f)
{
	free(f->rules);
	free(f->texts);
	f->rules = NULL;
	f->texts = NULL;
}
