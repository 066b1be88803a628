/* The filter on system calls: which are allowed, to whom, with what arguments. The table is in seccomp_table.c. */
#ifndef PASTA_IO_SECCOMP_H
#define PASTA_IO_SECCOMP_H

#include <stddef.h>
#include <stdint.h>

#define SECCOMP_CONDITIONS 3

/* Met if the low 32 bits of argument number arg, under mask, are value. A mask of zero means: no condition. */
struct seccomp_condition {
	uint32_t arg, mask, value;
};

/* One way to make one call; all conditions must be met. Rows of one call follow each other, and each is enough. */
struct seccomp_row {
	int32_t call; /* SECCOMP_ABSENT where the architecture has no such call */
	uint32_t who; /* CONFINE_WORKER, CONFINE_HELPER, or both */
	struct seccomp_condition when[SECCOMP_CONDITIONS];
};

#define SECCOMP_ABSENT (-1)

extern const struct seccomp_row seccomp_table[];
extern const size_t seccomp_rows;

#endif
