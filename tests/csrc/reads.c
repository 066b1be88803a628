/* Purpose: sees each access of compiled code to a guest's memory, and changes what was read right after.
 *
 * How: the code under test is compiled with -fsanitize=thread, so the compiler puts a call before each load and store and in place of
 * each atomic one. What it calls is here, and ThreadSanitizer is not. memcpy() and its like come here by the linker's --wrap. So does
 * mmap(), which says where the guest's memory is.
 */
#include "reads.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct reads reads;

static _Noreturn void wrong(const char *what, size_t at)
{
	printf("%s: %s at 0x%zx\n", reads.doing, what, at);
	exit(1);
}

static bool guests(const volatile void *at)
{
	return reads.theirs && (uintptr_t)at - (uintptr_t)reads.theirs < READS_MEMORY_BYTES;
}

static void was_read(const volatile void *from, size_t bytes)
{
	size_t at = (uintptr_t)from - (uintptr_t)reads.theirs;

	for (size_t i = at; guests(from) && i < at + bytes; i++) {
		if (reads.count[i]++ && reads.once[i])
			wrong("read twice", i);
		if (reads.changes[i])
			reads.theirs[i] ^= 0xff;
	}
}

/* --- the compiler's calls --- */

/* A compiler may do a plain load twice, so none is allowed. */
static void plain(const volatile void *at)
{
	if (guests(at))
		wrong("a plain load", (uintptr_t)at - (uintptr_t)reads.theirs);
}

#define PLAIN(name) \
	void name(const volatile void *at); \
	void name(const volatile void *at) \
	{ \
		plain(at); \
	}
PLAIN(__tsan_read1)
PLAIN(__tsan_read2)
PLAIN(__tsan_read4)
PLAIN(__tsan_read8)
PLAIN(__tsan_read16)
PLAIN(__tsan_unaligned_read2)
PLAIN(__tsan_unaligned_read4)
PLAIN(__tsan_unaligned_read8)
PLAIN(__tsan_unaligned_read16)

#define NOTHING(name) \
	void name(const volatile void *at); \
	void name(const volatile void *at) \
	{ \
		(void)at; \
	}
NOTHING(__tsan_write1)
NOTHING(__tsan_write2)
NOTHING(__tsan_write4)
NOTHING(__tsan_write8)
NOTHING(__tsan_write16)
NOTHING(__tsan_unaligned_write2)
NOTHING(__tsan_unaligned_write4)
NOTHING(__tsan_unaligned_write8)
NOTHING(__tsan_unaligned_write16)
NOTHING(__tsan_func_entry)
NOTHING(__tsan_func_exit)
NOTHING(__tsan_init)

void __tsan_read_range(const volatile void *at, size_t bytes);
void __tsan_write_range(const volatile void *at, size_t bytes);

void __tsan_read_range(const volatile void *at, size_t bytes)
{
	(void)bytes;
	plain(at);
}

void __tsan_write_range(const volatile void *at, size_t bytes)
{
	(void)at;
	(void)bytes;
}

#define ATOMIC(bits) \
	uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t *at, int order); \
	void __tsan_atomic##bits##_store(volatile uint##bits##_t *at, uint##bits##_t value, int order); \
	uint##bits##_t __tsan_atomic##bits##_exchange(volatile uint##bits##_t *at, uint##bits##_t value, int order); \
	uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t *at, int order) \
	{ \
		uint##bits##_t value = __atomic_load_n(at, __ATOMIC_SEQ_CST); \
\
		(void)order; \
		was_read(at, sizeof(value)); \
		return value; \
	} \
	void __tsan_atomic##bits##_store(volatile uint##bits##_t *at, uint##bits##_t value, int order) \
	{ \
		(void)order; \
		__atomic_store_n(at, value, __ATOMIC_SEQ_CST); \
	} \
	uint##bits##_t __tsan_atomic##bits##_exchange(volatile uint##bits##_t *at, uint##bits##_t value, int order) \
	{ \
		(void)order; \
		plain(at); \
		return __atomic_exchange_n(at, value, __ATOMIC_SEQ_CST); \
	}
ATOMIC(8)
ATOMIC(16)
ATOMIC(32)
ATOMIC(64)

void __tsan_atomic_thread_fence(int order);

void __tsan_atomic_thread_fence(int order)
{
	(void)order;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* --- the linker's --- */

void *__real_memcpy(void *to, const void *from, size_t bytes);
void *__wrap_memcpy(void *to, const void *from, size_t bytes);
void *__real_memmove(void *to, const void *from, size_t bytes);
void *__wrap_memmove(void *to, const void *from, size_t bytes);
int __real_memcmp(const void *a, const void *b, size_t bytes);
int __wrap_memcmp(const void *a, const void *b, size_t bytes);
void *__real_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset);

void *__wrap_memcpy(void *to, const void *from, size_t bytes)
{
	__real_memcpy(to, from, bytes);
	was_read(from, bytes);
	return to;
}

void *__wrap_memmove(void *to, const void *from, size_t bytes)
{
	__real_memmove(to, from, bytes);
	was_read(from, bytes);
	return to;
}

int __wrap_memcmp(const void *a, const void *b, size_t bytes)
{
	plain(a);
	plain(b);
	return __real_memcmp(a, b, bytes);
}

void *__wrap_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset)
{
	void *made = __real_mmap(at, bytes, protection, flags, fd, offset);

	if (fd >= 0)
		reads.theirs = made;
	return made;
}
