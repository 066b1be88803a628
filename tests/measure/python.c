/* An interpreter that brings the sanitizers' libraries, for sanitized.py: Python as it is, linked with -fsanitize.
 *
 * Rejected: LD_PRELOAD. Every program that a test or a guest runs inherits it; Debian's curl then waits for itself in
 * setlocale(), before its first line, dnsmasq does not start, and ip(8) copies overlapping strings.
 *
 * What a sanitizer has to say goes to standard error, which a locked-in worker no longer has, and its report wants files and
 * pipes, which the filter refuses. So what matters is first written into a file (REPORTS) that is mapped before anything
 * else happens, without any system call. Layout: the number of bytes used, then text. */
#include <Python.h>
#include <dlfcn.h>
#include <execinfo.h>
#include <fcntl.h>
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SPACE_BYTES (1u << 20)
#define LINE_BYTES 400
#define DEPTH 24

struct reports {
	_Atomic size_t used;
	char text[];
};

static struct reports *reports;
static int pid;

static void know_pid(void)
{
	pid = (int)getpid();
}

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
	char line[LINE_BYTES];
	va_list arguments;
	size_t length, at;

	va_start(arguments, format);
	length = (size_t)vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	length = length < sizeof(line) ? length : sizeof(line) - 1;
	at = atomic_fetch_add(&reports->used, length);
	if (sizeof(*reports) + at + length <= SPACE_BYTES)
		memcpy(reports->text + at, line, length);
}

/* Addresses within the files that were loaded, as addr2line takes them. */
static void say_stack(void)
{
	void *frames[DEPTH];
	int depth = backtrace(frames, DEPTH);

	for (int i = 0; i < depth; i++) {
		Dl_info place;

		if (dladdr(frames[i], &place) && place.dli_fname)
			say("  %s %#zx\n", place.dli_fname, (size_t)((char *)frames[i] - (char *)place.dli_fbase));
	}
}

/* Declared in no header that gcc installs: libubsan calls the one and offers the other. */
void __ubsan_on_report(void);
void __ubsan_get_current_report_data(const char **kind, const char **message, const char **file, unsigned *line, unsigned *column,
				     char **address);

/* The libraries call what follows, so the executable has to export it. Settings here reach processes with any environment.
 * Python keeps what it has allocated until it ends, so leaks are valgrind's; asking whether a terminal wants colours is refused. */
const char *__asan_default_options(void);
const char *__ubsan_default_options(void);

__attribute__((visibility("default"))) const char *__asan_default_options(void)
{
	return "detect_leaks=0:abort_on_error=1";
}

__attribute__((visibility("default"))) const char *__ubsan_default_options(void)
{
	return "print_stacktrace=1:color=never:suppressions=" SUPPRESSIONS;
}

__attribute__((visibility("default"))) void __asan_on_error(void)
{
	if (!reports)
		return;
	say("PID %d: AddressSanitizer: %s, %s of %zu bytes\n", pid, __asan_get_report_description(),
	    __asan_get_report_access_type() ? "write" : "read", __asan_get_report_access_size());
	say_stack();
}

__attribute__((visibility("default"))) void __ubsan_on_report(void)
{
	const char *kind, *message, *file;
	unsigned line, column;
	char *address;

	if (!reports)
		return;
	__ubsan_get_current_report_data(&kind, &message, &file, &line, &column, &address);
	say("PID %d: UndefinedBehaviorSanitizer: %s: %s at %s:%u:%u\n", pid, kind, message, file, line, column);
	say_stack();
}

/* libubsan reads /proc/self/exe when it first has something to say: here, while that is allowed. SUPPRESSIONS has it. */
static void wake(void)
{
	volatile int by = 40;

	by = 1 << by;
}

int main(int argc, char **argv)
{
	int fd = open(REPORTS, O_RDWR | O_CLOEXEC);

	know_pid();
	pthread_atfork(NULL, NULL, know_pid);
	wake();
	if (fd >= 0) {
		void *space = mmap(NULL, SPACE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

		reports = space == MAP_FAILED ? NULL : space;
		close(fd);
	}
	if (!reports)
		fprintf(stderr, "warning: no report of a sanitizer will be kept: " REPORTS " cannot be mapped\n");
	return Py_BytesMain(argc, argv);
}
