/* Namespaces for the end-to-end tests: makes them, enters them, holds them. Compiled by lab.py when the tests start.
 *
 *   labtool init UID user|root RESOLV_CONF NAME|CLOSED=NEEDED[:NEEDED]...
 *                                                    new user, PID, mount, UTS, IPC and network namespaces, plus one network
 *                                                    namespace for each NAME; prints "NAME PID" (PIDs of the new PID
 *                                                    namespace) and "ready"; ends, with all that runs inside, at EOF on
 *                                                    its input or when its parent dies. Run by root, it gives a view in
 *                                                    which the directory CLOSED, which UID may not enter, is open but
 *                                                    holds only NEEDED (an interpreter in root's home)
 *   labtool enter UID LAB PID NETPID caps|plain CMD...   runs CMD in the namespaces of PID, which runs inside those of LAB, and
 *                                                    in the network namespace of NETPID (as numbered inside, 0: that of
 *                                                    PID); passes signals on and ends as CMD did
 *   labtool hold TOKEN                               prints "held" and waits for EOF on its input
 *   labtool stray                                    as hold, in new user, network and mount namespaces, which are left as they are
 *
 * UID is what a caller who is root becomes before anything else, so that nothing here runs with more rights than an
 * ordinary user has. The PID namespace is what makes cleaning up certain: whatever forks away inside dies with it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { KINDS = 6 };
static const char *const kinds[KINDS] = {"user", "pid", "mnt", "uts", "ipc", "net"};

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "labtool: %s: %s\n", what, strerror(errno));
	_exit(125);
}

static void write_text(const char *path, const char *format, ...)
{
	char text[128];
	va_list args;
	va_start(args, format);
	int n = vsnprintf(text, sizeof text, format, args);
	va_end(args);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, (size_t)n) != n)
		die(path);
	close(fd);
}

static void die_with_parent(pid_t parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(125);
}

static void become(uid_t uid)
{
	if (geteuid() == 0 && uid != 0) {
		if (setgroups(0, NULL) || setresgid(uid, uid, uid) || setresuid(uid, uid, uid))
			die("setresuid");
	}
	prctl(PR_SET_DUMPABLE, 1);
}

static void make_user_namespace(int flags, int as_root)
{
	uid_t uid = geteuid();
	gid_t gid = getegid();
	if (unshare(CLONE_NEWUSER | flags))
		die("unshare");
	prctl(PR_SET_DUMPABLE, 1);
	write_text("/proc/self/setgroups", "deny");
	write_text("/proc/self/uid_map", "%u %u 1", as_root ? 0 : uid, uid);
	write_text("/proc/self/gid_map", "%u %u 1", as_root ? 0 : gid, gid);
}

static void wait_for_eof(void)
{
	char buf[64];
	ssize_t n;
	while ((n = read(0, buf, sizeof buf)) > 0 || (n < 0 && errno == EINTR))
		;
}

/* Makes every directory above `path`. */
static void make_parents(const char *path)
{
	char copy[PATH_MAX];
	snprintf(copy, sizeof copy, "%s", path);
	for (char *p = strchr(copy + 1, '/'); p; p = strchr(p + 1, '/')) {
		*p = 0;
		mkdir(copy, 0755);
		*p = '/';
	}
}

/* A private view of /proc, /run and /etc/resolv.conf. */
static void make_mounts(const char *resolv)
{
	char real[PATH_MAX];
	if (!realpath("/etc/resolv.conf", real))
		die("/etc/resolv.conf");
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) || mount("proc", "/proc", "proc", 0, NULL))
		die("mount /proc");
	if (mount("tmpfs", "/run", "tmpfs", 0, "mode=755,size=5g") || mkdir("/run/netns", 0755))
		die("mount /run");
	if (!strncmp(real, "/run/", 5)) { /* systemd-resolved keeps it there */
		make_parents(real);
		close(open(real, O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
	}
	if (mount(resolv, real, NULL, MS_BIND, NULL))
		die("mount resolv.conf");
}

static void open_closed_directories(int argc, char **argv)
{
	enum { MAX = 8 };
	char source[64], *needed[MAX], *rest;
	int fds[MAX], count;
	if (geteuid() != 0)
		return;
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		die("unshare mount namespace");
	for (int i = 0; i < argc; i++) {
		if (!(rest = strchr(argv[i], '=')))
			continue;
		*rest++ = 0;
		for (count = 0; count < MAX && (needed[count] = strsep(&rest, ":")); count++) {
			if ((fds[count] = open(needed[count], O_PATH | O_CLOEXEC)) < 0)
				die(needed[count]);
		}
		if (mount("tmpfs", argv[i], "tmpfs", 0, "mode=755,size=1m"))
			die(argv[i]);
		for (int n = 0; n < count; n++) {
			make_parents(needed[n]);
			mkdir(needed[n], 0755);
			snprintf(source, sizeof source, "/proc/self/fd/%d", fds[n]);
			if (mount(source, needed[n], NULL, MS_BIND | MS_REC, NULL))
				die(needed[n]);
			close(fds[n]);
		}
		*argv[i] = 0; /* done: not a name */
	}
}

static int init(int argc, char **argv)
{
	pid_t parent = getppid();
	open_closed_directories(argc - 3, argv + 3);
	become((uid_t)atoi(argv[0]));
	die_with_parent(parent);
	make_user_namespace(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC, !strcmp(argv[1], "root"));
	parent = getpid();
	pid_t child = fork();
	if (child < 0)
		die("fork");
	if (child > 0) {
		close(0);
		close(1);
		waitpid(child, NULL, 0);
		return 0;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* the parent is not visible in here, so getppid() says 0 */
	if (sethostname("lab", 3))
		die("sethostname");
	make_mounts(argv[2]);
	for (int i = 3; i < argc; i++) {
		int ready[2];
		char byte;
		if (!*argv[i])
			continue;
		if (pipe2(ready, O_CLOEXEC))
			die("pipe2");
		pid_t holder = fork();
		if (holder < 0)
			die("fork");
		if (holder == 0) {
			if (unshare(CLONE_NEWNET) || write(ready[1], "", 1) != 1)
				die("unshare network namespace");
			for (;;)
				pause();
		}
		if (read(ready[0], &byte, 1) != 1)
			die("holder");
		close(ready[0]);
		close(ready[1]);
		printf("%s %d\n", argv[i], holder);
	}
	signal(SIGCHLD, SIG_IGN); /* as PID 1: reap whatever is left to us */
	puts("ready");
	fflush(stdout);
	wait_for_eof();
	return 0;
}

/* Opens the namespaces of `pid` that differ from those of `base`; -1 for the others. */
static void open_namespaces(const char *pid, const char *base, int fds[KINDS])
{
	char path[64];
	struct stat theirs, ours;
	for (size_t i = 0; i < KINDS; i++) {
		snprintf(path, sizeof path, "/proc/%s/ns/%s", base, kinds[i]);
		if (stat(path, &ours))
			die(path);
		snprintf(path, sizeof path, "/proc/%s/ns/%s", pid, kinds[i]);
		fds[i] = open(path, O_RDONLY | O_CLOEXEC);
		if (fds[i] < 0 || fstat(fds[i], &theirs))
			die(path);
		if (theirs.st_ino == ours.st_ino) {
			close(fds[i]);
			fds[i] = -1;
		}
	}
}

static void join(const int fds[KINDS], size_t first)
{
	for (size_t i = 0; i < KINDS; i++) {
		size_t at = i ? i - (i <= first) : first; /* `first`, then the others in their order */
		if (fds[at] >= 0 && setns(fds[at], 0))
			die(kinds[at]);
	}
}

static void join_network(const char *pid)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%s/ns/net", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET))
		die(path);
	close(fd);
}

static void keep_capabilities(void)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2];
	if (syscall(SYS_capget, &header, data))
		die("capget");
	data[0].inheritable = data[0].permitted;
	data[1].inheritable = data[1].permitted;
	if (syscall(SYS_capset, &header, data))
		die("capset");
	for (unsigned long cap = 0; cap < 64; cap++)
		prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0);
}

static volatile pid_t command;

static void pass_on(int number)
{
	if (command > 0)
		kill(command, number);
}

static int enter(int argc, char **argv)
{
	static const int passed[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};
	char cwd[PATH_MAX];
	int status, host[KINDS], guest[KINDS];
	if (argc < 6)
		return 125;
	pid_t parent = getppid();
	become((uid_t)atoi(argv[0]));
	die_with_parent(parent);
	if (!getcwd(cwd, sizeof cwd))
		die("getcwd");
	open_namespaces(argv[1], "self", host);
	open_namespaces(argv[2], argv[1], guest);
	join(host, 0);
	/* In two steps: what the guest shares with its host is not the guest's to enter. The user namespace that the guest is in may not
	 * own its PID namespace. */
	join(guest, 1);
	if (strcmp(argv[3], "0"))
		join_network(argv[3]);
	if (chdir(cwd) && chdir("/"))
		die("chdir");
	command = fork();
	if (command < 0)
		die("fork");
	if (command == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		/* A caller in the background of a script, or under nohup(1), ignores some. */
		for (size_t i = 0; i < sizeof passed / sizeof *passed; i++)
			signal(passed[i], SIG_DFL);
		if (!strcmp(argv[4], "caps"))
			keep_capabilities();
		execvp(argv[5], argv + 5);
		die(argv[5]);
	}
	for (size_t i = 0; i < sizeof passed / sizeof *passed; i++)
		signal(passed[i], pass_on);
	close(0);
	close(1);
	while (waitpid(command, &status, 0) < 0) {
		if (errno != EINTR)
			die("waitpid");
	}
	if (WIFSIGNALED(status)) {
		signal(WTERMSIG(status), SIG_DFL);
		kill(getpid(), WTERMSIG(status));
	}
	return WEXITSTATUS(status);
}

static int hold(void)
{
	puts("held");
	fflush(stdout);
	wait_for_eof();
	return 0;
}

int main(int argc, char **argv)
{
	if (argc >= 5 && !strcmp(argv[1], "init"))
		return init(argc - 2, argv + 2);
	if (argc >= 3 && !strcmp(argv[1], "enter"))
		return enter(argc - 2, argv + 2);
	if (argc == 3 && !strcmp(argv[1], "hold"))
		return hold();
	if (argc == 3 && !strcmp(argv[1], "stray")) {
		make_user_namespace(CLONE_NEWNET | CLONE_NEWNS, 1);
		return hold();
	}
	fputs("labtool: bad arguments\n", stderr);
	return 125;
}
