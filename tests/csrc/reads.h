/* Purpose: what compiled code reads of a guest's memory (reads.c). */
#ifndef PASTA_TESTS_READS_H
#define PASTA_TESTS_READS_H

#include <stdbool.h>
#include <stdint.h>

#define READS_MEMORY_BYTES 0x40000u

extern struct reads {
	const char *doing; /* for what is said when something is wrong, which ends the program */
	uint8_t *theirs;   /* the memory where the code under test sees it; NULL: not mapped yet */
	/* Of each byte. */
	uint8_t count[READS_MEMORY_BYTES];
	bool once[READS_MEMORY_BYTES];    /* must not be read twice */
	bool changes[READS_MEMORY_BYTES]; /* right after it is read */
} reads;

#endif
