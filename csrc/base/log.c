/* How: a full ring drops new lines, and the next line that fits is preceded by their number. A guest that provokes lines can
 * neither slow the loop down nor grow memory.
 *
 * Invariants: head < LOG_LINES; count <= LOG_LINES.
 */
#include "base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"

static void log_vadd(struct log *log, enum log_level level, const char *format, va_list ap)
{
	struct log_line *line = &log->lines[(log->head + log->count) % LOG_LINES];
	int len = vsnprintf(line->text, sizeof(line->text), format, ap);

	line->level = (uint32_t)level;
	line->len = len < 0 ? 0 : u32_min((uint32_t)len, sizeof(line->text) - 1);
	log->count++;
}

static void log_lost(struct log *log, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	log_vadd(log, LOG_LEVEL_WARNING, format, ap);
	va_end(ap);
}

void log_add(struct log *log, enum log_level level, const char *format, ...)
{
	va_list ap;

	if (log->level < (uint32_t)level)
		return;
	if (log->count + (log->lost ? 2u : 1u) > LOG_LINES) {
		log->lost++;
		return;
	}
	if (log->lost) {
		log_lost(log, "%" PRIu64 " log lines lost: they came faster than they were written", log->lost);
		log->lost = 0;
	}
	va_start(ap, format);
	log_vadd(log, level, format, ap);
	va_end(ap);
}

void log_refused(struct log *log, int64_t *last_ms, int64_t now_ms, const char *what, uint32_t open, int error)
{
	if (!log_due(last_ms, now_ms))
		return;
	log_add(log, LOG_LEVEL_WARNING, "%s refused with %u open: %s%s", what, open, error ? strerror(error) : "that is the limit",
		error == EMFILE ? "; raise the limit of open files (ulimit -n)" : "");
}

bool log_take(struct log *log, const struct log_line **line)
{
	if (!log->count)
		return false;
	*line = &log->lines[log->head];
	log->head = (log->head + 1) % LOG_LINES;
	log->count--;
	return true;
}
