/* Purpose: log lines wait in a small ring until Python fetches them. C never writes to a descriptor of the log. */
#ifndef PASTA_BASE_LOG_H
#define PASTA_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG, LOG_LEVEL_TRACE };

#define LOG_LINE_BYTES 240
#define LOG_LINES 32

struct log_line {
	uint32_t level;
	uint32_t len;
	char text[LOG_LINE_BYTES];
};

struct log {
	uint32_t level; /* the least important that is kept */
	uint32_t head, count;
	uint64_t lost; /* lines dropped since the last one that fitted */
	struct log_line lines[LOG_LINES];
};

void log_add(struct log *log, enum log_level level, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Takes the oldest line, or returns false. The line stays readable until the next log_add(). */
bool log_take(struct log *log, const struct log_line **line);

#define LOG_AGAIN_MS 10000
/* Limits a line that could come over and over to one in LOG_AGAIN_MS: true if it is due. *last_ms: when it last was; 0: never. */
static inline bool log_due(int64_t *last_ms, int64_t now_ms)
{
	if (*last_ms && now_ms - *last_ms < LOG_AGAIN_MS)
		return false;
	*last_ms = now_ms;
	return true;
}

/* Warns, when that is due, that one more flow was refused. open: how many there are; error: the errno, or 0 for our own limit. */
void log_refused(struct log *log, int64_t *last_ms, int64_t now_ms, const char *what, uint32_t open, int error);

#define log_enabled(log, lvl) __builtin_expect((log)->level >= (uint32_t)(lvl), 0)
#define log_debug(log, ...) (log_enabled(log, LOG_LEVEL_DEBUG) ? log_add(log, LOG_LEVEL_DEBUG, __VA_ARGS__) : (void)0)

#endif
