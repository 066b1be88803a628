/* Makes another process call the kernel, as code that had taken it over would: the break-out tests' way in.
 *
 *   inject PID CALL [ARGUMENT]...    PID: any process we may trace, best one that waits in a system call
 *
 * CALL is a name of the table below, or a number; an ARGUMENT is a number, "=TEXT" (a pointer to TEXT and a zero byte), "#HEX" (a pointer to these bytes),
 * or "page" (the page of these). Prints "returned N" (an errno value negative), "killed SIGNAL" or "exited STATUS".
 *
 * It runs no code of the target's but the one instruction the target is waiting in. Nothing in the program under test knows of this.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ARGUMENTS = 6, BELOW = 16384, PAGE = 4096, DATA_MAX = 512 };

#if defined(__x86_64__)
typedef struct user_regs_struct registers;
static uintptr_t stack_of(const registers *r)
{
	return r->rsp;
}
static long result_of(const registers *r)
{
	return (long)r->rax;
}
static void set_call(registers *r, long call, const long *args)
{
	r->rip -= 2;                     /* back on the syscall instruction */
	r->orig_rax = (unsigned long)-1; /* the call it waited in is not resumed */
	r->rax = (unsigned long)call;
	r->rdi = (unsigned long)args[0], r->rsi = (unsigned long)args[1], r->rdx = (unsigned long)args[2];
	r->r10 = (unsigned long)args[3], r->r8 = (unsigned long)args[4], r->r9 = (unsigned long)args[5];
}
static void set_interrupted(registers *r)
{
	r->rax = (unsigned long)-EINTR;
}
#elif defined(__aarch64__)
typedef struct user_regs_struct registers;
static uintptr_t stack_of(const registers *r)
{
	return r->sp;
}
static long result_of(const registers *r)
{
	return (long)r->regs[0];
}
static void set_call(registers *r, long call, const long *args)
{
	r->pc -= 4;
	r->regs[8] = (unsigned long)call;
	for (int i = 0; i < ARGUMENTS; i++)
		r->regs[i] = (unsigned long)args[i];
}
static void set_interrupted(registers *r)
{
	r->regs[0] = (unsigned long)-EINTR;
}
#else
#error "the registers of this architecture"
#endif

#define NAMED(name) \
	{ \
#name, SYS_##name \
	}
static const struct {
	const char *name;
	long number;
} calls[] = {
	NAMED(accept4),
	NAMED(add_key),
	NAMED(bpf),
	NAMED(capset),
	NAMED(chdir),
	NAMED(chroot),
	NAMED(clone),
	NAMED(clone3),
	NAMED(connect),
	NAMED(dup3),
	NAMED(execve),
	NAMED(execveat),
	NAMED(fchmodat),
	NAMED(fcntl),
	NAMED(getdents64),
	NAMED(getpid),
	NAMED(inotify_init1),
	NAMED(io_uring_setup),
	NAMED(ioctl),
	NAMED(keyctl),
	NAMED(kill),
	NAMED(linkat),
	NAMED(madvise),
	NAMED(memfd_create),
	NAMED(mkdirat),
	NAMED(mmap),
	NAMED(mount),
	NAMED(mprotect),
	NAMED(newfstatat),
	NAMED(openat),
	NAMED(openat2),
	NAMED(perf_event_open),
	NAMED(personality),
	NAMED(pidfd_open),
	NAMED(pivot_root),
	NAMED(prctl),
	NAMED(prlimit64),
	NAMED(process_vm_readv),
	NAMED(ptrace),
	NAMED(renameat2),
	NAMED(sched_setaffinity),
	NAMED(seccomp),
	NAMED(sendto),
	NAMED(setns),
	NAMED(setresuid),
	NAMED(setsockopt),
	NAMED(socket),
	NAMED(socketpair),
	NAMED(swapoff),
	NAMED(symlinkat),
	NAMED(tgkill),
	NAMED(timerfd_create),
	NAMED(umount2),
	NAMED(unlinkat),
	NAMED(unshare),
	NAMED(userfaultfd),
	NAMED(wait4),
};

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "inject: %s: %s\n", what, strerror(errno));
	exit(125);
}

static void move_registers(int how, pid_t pid, registers *r)
{
	struct iovec iov = {r, sizeof *r};
	if (ptrace(how, pid, (void *)(uintptr_t)NT_PRSTATUS, &iov))
		die("registers");
}

static void poke(pid_t pid, uintptr_t to, const uint8_t *data, size_t len)
{
	for (size_t at = 0; at < len; at += sizeof(long)) {
		long word = 0;
		memcpy(&word, data + at, len - at < sizeof word ? len - at : sizeof word);
		if (ptrace(PTRACE_POKEDATA, pid, (void *)(to + at), (void *)word))
			die("memory");
	}
}

static size_t bytes_of(const char *text, uint8_t *out)
{
	size_t len = 0;
	unsigned byte;
	if (*text == '=') {
		len = strlen(text + 1) + 1;
		memcpy(out, text + 1, len);
		return len;
	}
	for (text++; sscanf(text, "%2x", &byte) == 1; text += 2)
		out[len++] = (uint8_t)byte;
	return len;
}

static long number_of(const char *call)
{
	for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
		if (!strcmp(calls[i].name, call))
			return calls[i].number;
	return strtol(call, NULL, 0);
}

/* Waits for the next stop; tells of the end and exits if it is that. Signals go through: SIGSYS is the filter's. */
static void wait_for_stop(pid_t pid)
{
	int status;
	for (;;) {
		if (waitpid(pid, &status, __WALL) != pid)
			die("waitpid");
		if (!WIFSTOPPED(status))
			break;
		if (status >> 8 == (SIGTRAP | PTRACE_EVENT_EXEC << 8)) { /* nothing is left of what called */
			printf("returned 0\n");
			exit(0);
		}
		if (WSTOPSIG(status) == (SIGTRAP | 0x80) || status >> 16)
			return;
		if (ptrace(PTRACE_SYSCALL, pid, NULL, (void *)(long)WSTOPSIG(status)))
			die("PTRACE_SYSCALL");
	}
	if (WIFSIGNALED(status))
		printf("killed %d\n", WTERMSIG(status));
	else
		printf("exited %d\n", WEXITSTATUS(status));
	exit(0);
}

static void go_on(pid_t pid)
{
	if (ptrace(PTRACE_SYSCALL, pid, NULL, NULL))
		die("PTRACE_SYSCALL");
	wait_for_stop(pid);
}

int main(int argc, char **argv)
{
	registers saved, r;
	long args[ARGUMENTS] = {0}, result;
	uint8_t data[DATA_MAX];
	pid_t pid;
	if (argc < 3 || argc > 3 + ARGUMENTS)
		return 125;
	pid = atoi(argv[1]);
	if (ptrace(PTRACE_SEIZE, pid, NULL, (void *)(PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC)) ||
	    ptrace(PTRACE_INTERRUPT, pid, NULL, NULL))
		die("PTRACE_SEIZE");
	wait_for_stop(pid);
	move_registers(PTRACE_GETREGSET, pid, &saved);
	r = saved;
	for (int i = 0; i < argc - 3; i++) {
		uintptr_t place = stack_of(&r) - BELOW + (uintptr_t)i * DATA_MAX;
		const char *text = argv[3 + i];
		if (!strcmp(text, "page")) {
			args[i] = (long)(place & ~(uintptr_t)(PAGE - 1));
		} else if (*text == '=' || *text == '#') {
			args[i] = (long)place;
			poke(pid, place, data, bytes_of(text, data));
		} else {
			args[i] = strtol(text, NULL, 0);
		}
	}
	set_call(&r, number_of(argv[2]), args);
#if defined(__aarch64__)
	int none = -1;
	struct iovec iov = {&none, sizeof none};
	if (ptrace(PTRACE_SETREGSET, pid, (void *)(uintptr_t)NT_ARM_SYSTEM_CALL, &iov))
		die("system call");
#endif
	move_registers(PTRACE_SETREGSET, pid, &r);
	go_on(pid); /* the entry, unless the filter comes first */
	go_on(pid); /* the exit */
	move_registers(PTRACE_GETREGSET, pid, &r);
	result = result_of(&r);
	set_interrupted(&saved);
	move_registers(PTRACE_SETREGSET, pid, &saved);
	go_on(pid); /* what comes next, if it may live: the filter's signal follows the exit of the call that was not made */
	printf("returned %ld\n", result);
	ptrace(PTRACE_DETACH, pid, NULL, NULL);
	return 0;
}
