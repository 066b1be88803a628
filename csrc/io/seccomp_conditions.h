/* Purpose: how the tables of system calls write the conditions of a row. */
#ifndef PASTA_IO_SECCOMP_CONDITIONS_H
#define PASTA_IO_SECCOMP_CONDITIONS_H

#include <sys/socket.h>

/* Conditions: the argument is a number; has no bits but these; has these bits set; has these of some bits set; is a type of
 * socket. */
#define IS(arg, number) \
	{ \
		arg, UINT32_MAX, (uint32_t)(number) \
	}
#define ONLY(arg, bits) \
	{ \
		arg, ~(uint32_t)(bits), 0 \
	}
#define WITH(arg, bits) \
	{ \
		arg, (uint32_t)(bits), (uint32_t)(bits) \
	}
#define OF(arg, bits, set) \
	{ \
		arg, (uint32_t)(bits), (uint32_t)(set) \
	}
#define TYPE(arg, type) \
	{ \
		arg, ~(uint32_t)(SOCK_NONBLOCK | SOCK_CLOEXEC), type \
	}
#define OPTION(level, name) IS(1, level), IS(2, name)

#endif
