/* Purpose: make the filter in the kernel from the table.
 *
 * How: the filter is a program of classic BPF (seccomp(2)):
 *
 *   another architecture, or x32           kill
 *   a call without conditions              allow
 *   a call with conditions                 allow if all conditions of one of its rows are met, else kill
 *   any other call                         kill
 *
 * For the processes that follow the host (seccomp_follow.c) "kill" is an error, ENOSYS.
 *
 * The calls are sorted, and a block of them is passed over where the number is greater than its last one: the kernel runs the program
 * once for each number when it takes it, which takes half the time so.
 *
 * For a call without conditions the program reads no argument. Kernels since 5.11 then know the answer from a bitmap, and do not
 * run the program. Calls of the data path have no conditions.
 *
 * Rejected: libseccomp, a dependency for a page of code; a binary search, which would help only calls with conditions, of which a
 * flow makes at most a dozen.
 */
#include "io/seccomp.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bytes.h"
#include "plane_api.h"

#if defined(__x86_64__)
#define OUR_ARCH AUDIT_ARCH_X86_64
#define X32_BIT 0x40000000u /* __X32_SYSCALL_BIT of asm/unistd.h */
#elif defined(__aarch64__)
#define OUR_ARCH AUDIT_ARCH_AARCH64
#else
#define OUR_ARCH 0 /* no filter: confine_calls() says so */
#endif

#define PROGRAM_MAX 1024 /* of the kernel's 4096 (BPF_MAXINSNS) */
#define CALLS_MAX 256
#define BLOCK_CALLS 8

struct program {
	struct sock_filter code[PROGRAM_MAX];
	uint32_t refusal; /* SECCOMP_RET_ value for calls that are not allowed */
	uint16_t len;
	bool full;
};

static void put(struct program *p, uint16_t code, uint32_t k, uint8_t yes, uint8_t no)
{
	if (p->len == PROGRAM_MAX) {
		p->full = true;
		return;
	}
	p->code[p->len++] = (struct sock_filter){code, yes, no, k};
}

static void put_load(struct program *p, size_t offset)
{
	put(p, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

static void put_result(struct program *p, uint32_t result)
{
	put(p, BPF_RET | BPF_K, result, 0, 0);
}

static size_t low_half(uint32_t arg)
{
	size_t offset = offsetof(struct seccomp_data, args) + arg * sizeof(uint64_t);

	return __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? offset + sizeof(uint32_t) : offset;
}

/* Allows the call if all conditions are met; else the program goes on behind the row. */
static void put_row(struct program *p, const struct seccomp_row *row)
{
	uint16_t failed[SECCOMP_CONDITIONS];
	size_t n = 0;

	for (; n < SECCOMP_CONDITIONS && row->when[n].mask; n++) {
		const struct seccomp_condition *c = &row->when[n];

		put_load(p, low_half(c->arg));
		if (c->mask != UINT32_MAX)
			put(p, BPF_ALU | BPF_AND | BPF_K, c->mask, 0, 0);
		failed[n] = p->len;
		put(p, BPF_JMP | BPF_JEQ | BPF_K, c->value, 0, 0);
	}
	put_result(p, SECCOMP_RET_ALLOW);
	for (size_t i = 0; i < n && !p->full; i++)
		p->code[failed[i]].jf = (uint8_t)(p->len - failed[i] - 1);
}

/* How many rows in succession are about the call of the first one. */
static size_t rows_of_call(const struct seccomp_row *row, size_t left)
{
	size_t rows = 1;

	while (rows < left && row[rows].call == row->call)
		rows++;
	return rows;
}

/* A jump whose end put_end() sets. Returns its place. */
static uint16_t put_jump(struct program *p)
{
	put(p, BPF_JMP | BPF_JA, 0, 0, 0);
	return p->len;
}

static void put_end(struct program *p, uint16_t jump)
{
	if (!p->full)
		p->code[jump - 1].k = (uint32_t)(p->len - jump);
}

/* Adds one call, with its rows for `who`. */
static void put_call(struct program *p, const struct seccomp_row *row, size_t rows, uint32_t who)
{
	size_t ours = 0;
	uint16_t skip;

	for (size_t i = 0; i < rows; i++)
		ours += (row[i].who & who) != 0;
	if (!ours)
		return;
	put(p, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)row->call, 1, 0);
	skip = put_jump(p);
	for (size_t i = 0; i < rows; i++)
		if (row[i].who & who)
			put_row(p, &row[i]);
	put_result(p, p->refusal);
	put_end(p, skip);
}

/* The places of each call's first row, by the numbers of the calls. Returns how many there are, at most CALLS_MAX. */
static size_t sorted(const struct seccomp_row table[], size_t rows, size_t first[CALLS_MAX])
{
	size_t count = 0;

	for (size_t row = 0; row < rows && count < CALLS_MAX; row += rows_of_call(&table[row], rows - row)) {
		size_t at = count;

		if (table[row].call == SECCOMP_ABSENT)
			continue;
		for (; at && table[first[at - 1]].call > table[row].call; at--)
			first[at] = first[at - 1];
		first[at] = row;
		count++;
	}
	return count;
}

static int build(struct program *p, uint32_t who)
{
	bool follows = who & (CONFINE_WATCHER | CONFINE_APPLIER);
	const struct seccomp_row *table = follows ? seccomp_follow_table : seccomp_table;
	size_t rows = follows ? seccomp_follow_rows : seccomp_rows, first[CALLS_MAX], calls = sorted(table, rows, first);

	p->refusal = follows ? SECCOMP_RET_ERRNO | ENOSYS : SECCOMP_RET_KILL_PROCESS;
	put_load(p, offsetof(struct seccomp_data, arch));
	put(p, BPF_JMP | BPF_JEQ | BPF_K, OUR_ARCH, 1, 0);
	put_result(p, SECCOMP_RET_KILL_PROCESS);
	put_load(p, offsetof(struct seccomp_data, nr));
#ifdef X32_BIT
	put(p, BPF_JMP | BPF_JGE | BPF_K, X32_BIT, 0, 1);
	put_result(p, SECCOMP_RET_KILL_PROCESS);
#endif
	for (size_t at = 0; at < calls;) {
		size_t end = at + BLOCK_CALLS < calls ? at + BLOCK_CALLS : calls;
		uint16_t skip;

		put(p, BPF_JMP | BPF_JGE | BPF_K, (uint32_t)table[first[end - 1]].call + 1, 0, 1);
		skip = put_jump(p);
		for (; at < end; at++)
			put_call(p, &table[first[at]], rows_of_call(&table[first[at]], rows - first[at]), who);
		put_result(p, p->refusal);
		put_end(p, skip);
	}
	put_result(p, p->refusal);
	return p->full || calls == CALLS_MAX ? -E2BIG : 0;
}

int confine_calls(uint32_t who)
{
	/* SPEC_ALLOW: without it, kernels before 5.16 slow a filtered process down, to protect it from code of others that it
	 * runs. It runs none. Kernels before 4.17 do not know the flag. */
	unsigned long flags = SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_SPEC_ALLOW;
	struct program p = {0};
	struct sock_fprog prog = {.filter = p.code};
	long rc;

	if (!OUR_ARCH)
		return -EOPNOTSUPP;
	rc = build(&p, who);
	if (rc)
		return (int)rc;
	prog.len = p.len;
	rc = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &prog);
	if (rc < 0 && errno == EINVAL)
		rc = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags & ~SECCOMP_FILTER_FLAG_SPEC_ALLOW, &prog);
	if (rc > 0)
		return -ESRCH; /* a thread that cannot take the filter */
	return rc < 0 ? -errno : 0;
}
