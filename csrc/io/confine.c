/* Purpose: give up what the worker and the helper do not need: namespaces, the root, privileges, files, limits. For system calls
 * see seccomp.c. Python's os module has none of these functions, and the worker imports no ctypes.
 *
 * Rejected: one function for all, which could not say what the kernel refused.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bytes.h"
#include "plane_api.h"

int confine_unshare(uint32_t which)
{
	int flags = 0;

	if (which & CONFINE_USER)
		flags |= CLONE_NEWUSER;
	if (which & CONFINE_MOUNT)
		flags |= CLONE_NEWNS;
	if (which & CONFINE_PID)
		flags |= CLONE_NEWPID;
	if (which & CONFINE_IPC)
		flags |= CLONE_NEWIPC;
	if (which & CONFINE_UTS)
		flags |= CLONE_NEWUTS;
	return unshare(flags) ? -errno : 0;
}

int confine_root(uint32_t by_chroot)
{
	/* Any directory can be the mount point: in the end it shows the new file system only. */
	static const char *const points[] = {"/tmp", "/proc", "/dev", "/usr"};
	static const char limits[] = "nr_inodes=2,nr_blocks=1,mode=0555";
	size_t at = 0;

	if (mount("", "/", "", MS_REC | MS_PRIVATE, NULL))
		return -errno;
	while (mount("", points[at], "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, limits))
		if (errno != ENOENT || ++at == ARRAY_LEN(points))
			return -errno;
	if (chdir(points[at]))
		return -errno;
	/* Old and new root on the same directory: the old one is then mounted over the new one, and the unmount removes it
	 * (pivot_root(2), NOTES). */
	if (syscall(SYS_pivot_root, ".", "."))
		return by_chroot && !chroot(".") ? 0 : -errno;
	if (umount2(".", MNT_DETACH) || chdir("/"))
		return -errno;
	return 0;
}

/* ambient: a program that this one starts has them too (capabilities(7)). */
static int raise_ambient(uint32_t kept)
{
	for (unsigned long cap = 0; cap < 32; cap++)
		if (kept >> cap & 1 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0))
			return -errno;
	return 0;
}

int confine_privileges(uint32_t kept, int inherited)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
	struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3];
	struct rlimit no_core = {0, 0};

	/* A process that has changed from root to another user may keep permitted capabilities, but has none in effect. */
	if (syscall(SYS_capget, &header, sets))
		return -errno;
	for (size_t i = 0; i < ARRAY_LEN(sets); i++)
		sets[i].effective = sets[i].permitted;
	sets[0].inheritable |= inherited ? kept & sets[0].permitted : 0; /* impossible once the bounding set lacks them */
	if (syscall(SYS_capset, &header, sets))
		return -errno;
	/* Shrinking the bounding set takes CAP_SETPCAP. Without it the set stays, which does no harm: no_new_privs keeps exec from
	 * granting a capability. EINVAL: there are no more. */
	for (unsigned long cap = 0; !prctl(PR_CAPBSET_DROP, cap, 0, 0, 0); cap++)
		;
	if (errno != EPERM && errno != EINVAL)
		return -errno;
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) && errno != EINVAL)
		return -errno;
	memset(sets, 0, sizeof(sets));
	sets[0].effective = sets[0].permitted = kept;
	sets[0].inheritable = inherited ? kept : 0;
	if (syscall(SYS_capset, &header, sets) || (inherited && raise_ambient(kept)))
		return -errno;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
		return -errno;
	return setrlimit(RLIMIT_CORE, &no_core) ? -errno : 0;
}

int confine_descriptors(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return -errno;
	limit.rlim_cur = limit.rlim_max;
	return setrlimit(RLIMIT_NOFILE, &limit) ? -errno : 0;
}

int confine_dumpable(void)
{
	return prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) ? -errno : 0;
}

/* struct landlock_ruleset_attr of ABI 6 (linux/landlock.h). Older kernels take the beginning of it. */
struct landlock_attr {
	uint64_t handled_access_fs, handled_access_net, scoped;
};
#define LANDLOCK_VERSION 1      /* LANDLOCK_CREATE_RULESET_VERSION */
#define LANDLOCK_SCOPED (1 | 2) /* abstract UNIX sockets, signals */
#define LANDLOCK_PATH_BENEATH 1 /* LANDLOCK_RULE_PATH_BENEATH */
#define LANDLOCK_EXECUTE (1u << 0)
#define LANDLOCK_READ_FILE (1u << 2)
#define LANDLOCK_READ_DIR (1u << 3)

/* struct landlock_path_beneath_attr. */
struct landlock_beneath {
	uint64_t allowed_access;
	int32_t parent_fd;
} __attribute__((packed));

static void allow_reading(int ruleset, const char *path)
{
	struct landlock_beneath rule = {LANDLOCK_READ_FILE | LANDLOCK_READ_DIR, open(path, O_PATH | O_CLOEXEC)};

	if (rule.parent_fd < 0)
		return;
	if (syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_PATH_BENEATH, &rule, 0)) {
		rule.allowed_access = LANDLOCK_READ_FILE; /* a file, such as an archive of modules */
		(void)syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_PATH_BENEATH, &rule, 0);
	}
	close(rule.parent_fd);
}

/* free: rights to files that stay for all of them. */
static int restrict_files(uint64_t free, const char *const readable[])
{
	/* How many access rights to files ABI 1 to 5 have. All are handled, and a rule grants only reading. */
	static const uint8_t rights[] = {13, 14, 15, 15, 16};
	struct landlock_attr attr = {0};
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_VERSION), fd, rc;

	if (abi < 1)
		return abi < 0 ? -errno : -EOPNOTSUPP;
	attr.handled_access_fs = (1u << rights[abi > (long)ARRAY_LEN(rights) ? ARRAY_LEN(rights) - 1 : (size_t)abi - 1]) - 1;
	attr.handled_access_fs &= ~free;
	if (abi >= 6)
		attr.scoped = LANDLOCK_SCOPED;
	/* No rules for TCP: they name ports only, and a guest may use any port. */
	fd = syscall(SYS_landlock_create_ruleset, &attr, abi >= 6 ? sizeof(attr) : sizeof(attr.handled_access_fs), 0);
	if (fd < 0)
		return -errno;
	for (size_t i = 0; readable && readable[i]; i++)
		allow_reading((int)fd, readable[i]);
	rc = syscall(SYS_landlock_restrict_self, (int)fd, 0) ? -errno : 0;
	close((int)fd);
	return (int)rc;
}

int confine_landlock(const char *const readable[])
{
	return restrict_files(0, readable);
}

int confine_reading_only(void)
{
	return restrict_files(LANDLOCK_EXECUTE | LANDLOCK_READ_FILE | LANDLOCK_READ_DIR, NULL);
}

int confine_limits(int files)
{
	struct rlimit none = {0, 0};

	if (setrlimit(RLIMIT_NPROC, &none))
		return -errno;
	return !files && setrlimit(RLIMIT_FSIZE, &none) ? -errno : 0;
}

void confine_environment(const char *const kept[])
{
	for (char **variable = environ; variable && *variable; variable++) {
		size_t at = 0;

		while (kept[at] && strncmp(*variable, kept[at], strlen(kept[at])) != 0)
			at++;
		if (!kept[at])
			explicit_bzero(*variable, strlen(*variable));
	}
}

int confine_name(const char *name)
{
	return prctl(PR_SET_NAME, name) ? -errno : 0;
}
