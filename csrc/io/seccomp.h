/* Purpose: the filter on system calls: which calls are allowed, for which process, with what arguments. */
#ifndef PASTA_IO_SECCOMP_H
#define PASTA_IO_SECCOMP_H

#include <stddef.h>
#include <stdint.h>

#define SECCOMP_CONDITIONS 3

/* Met if the low 32 bits of argument number arg, masked with mask, are value. Mask zero: no condition. */
struct seccomp_condition {
	uint32_t arg, mask, value;
};

/* Allows one call if all conditions are met. Rows of the same call stand together; one of them is enough. */
struct seccomp_row {
	int32_t call; /* SECCOMP_ABSENT where the architecture has no such call */
	uint32_t who; /* CONFINE_WORKER and following, or-ed */
	struct seccomp_condition when[SECCOMP_CONDITIONS];
};

#define SECCOMP_ABSENT (-1)

/* seccomp_table.c: the worker and its helper. */
extern const struct seccomp_row seccomp_table[];
extern const size_t seccomp_rows;
/* seccomp_follow.c: the processes that follow the host. */
extern const struct seccomp_row seccomp_follow_table[];
extern const size_t seccomp_follow_rows;

#endif
