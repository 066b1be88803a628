"""Builds the two C extensions with cffi in API mode.

    pasta_py._plane   the core. Python sees the parts of HEADERS between their cdef markers
    pasta_py._calls   the system calls of control/guest/syscalls.py. Through ctypes each start would take 2 ms longer

Environment: PASTA_WERROR=1 makes warnings errors. PASTA_COVERAGE=DIRECTORY builds for gcov, which writes its data there
(tests/measure/keep.c). PASTA_SANITIZE=address,undefined builds with these sanitizers.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import cffi

HERE = Path(__file__).resolve().parent
FOLDERS = ("base", "wire", "core", "io", "proto", "plane")
HEADERS = ("core/event.h", "core/egress_text.h", "plane_api.h")
INCLUDES = "".join(f'#include "{header}"\n' for header in HEADERS)


def cdef() -> str:
    """The declarations between the markers of the headers, without comments."""
    found = []
    for header in HEADERS:
        text = (HERE / header).read_text(encoding="utf-8")
        inside = text.partition("/* cdef begin */")[2].partition("/* cdef end */")[0]
        if not inside:
            raise SystemExit(f"{header}: no text between the markers /* cdef begin */ and /* cdef end */")
        found.append(re.sub(r"/\*.*?\*/", "", inside, flags=re.DOTALL))
    return "".join(found)


def relative(path: Path) -> str:
    """setuptools takes only paths relative to setup.py."""
    return os.path.relpath(path, HERE.parent)


def sources() -> list[str]:
    paths = [path for folder in FOLDERS for path in sorted((HERE / folder).glob("*.c"))]
    if os.environ.get("PASTA_COVERAGE"):
        paths.append(HERE.parent / "tests" / "measure" / "keep.c")
    return [relative(path) for path in paths]


def flags() -> tuple[list[str], list[str]]:
    """Compiler and linker flags."""
    # gcc 12 vectorises the checksum loop only with -O3.
    compile_args = ["-std=c11", "-D_GNU_SOURCE", "-O3", "-Wall", "-Wextra", "-fvisibility=hidden", "-pthread"]
    link_args = ["-pthread"]
    if os.environ.get("PASTA_WERROR"):
        compile_args.append("-Werror")
    if directory := os.environ.get("PASTA_COVERAGE"):
        compile_args += ["-fprofile-arcs", "-ftest-coverage", "-fprofile-update=atomic", "-fprofile-info-section=gcov_info"]
        compile_args += ["-O1", f'-DPASTA_COVERAGE="{directory}"']
        link_args += ["-lgcov", "-Wl,--wrap=plane_free"]
    if sanitize := os.environ.get("PASTA_SANITIZE"):
        compile_args += [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-O1", "-g"]
        link_args.append(f"-fsanitize={sanitize}")
    return compile_args, link_args


compile_args, link_args = flags()
ffibuilder = cffi.FFI()
ffibuilder.cdef(cdef())
ffibuilder.set_source(
    "pasta_py._plane",
    INCLUDES,
    sources=sources(),
    include_dirs=[relative(HERE)],
    extra_compile_args=compile_args,
    extra_link_args=link_args,
    # A change of one of these rebuilds the extension. A source archive includes them.
    depends=[relative(path) for path in [Path(__file__).resolve(), *HERE.rglob("*.h")]],
)

calls = cffi.FFI()
calls.cdef("""
    int unshare(int flags);
    int setns(int fd, int nstype);
    int mount(const char *source, const char *target, const char *type, unsigned long flags, const void *data);
    int sethostname(const char *name, size_t len);
    int prctl(int option, unsigned long arg2, unsigned long arg3, unsigned long arg4, unsigned long arg5);
    int inotify_init1(int flags);
    int inotify_add_watch(int fd, const char *path, uint32_t mask);
    int die_after(long milliseconds);
    int clone_mount(const char *path, int below);
    int place_mount(int mount, const char *target);
    int keep_directory(int directory);
""")
calls.set_source(
    "pasta_py._calls",
    """
    #include <sched.h>
    #include <signal.h>
    #include <sys/inotify.h>
    #include <sys/mount.h>
    #include <fcntl.h>
    #include <sys/prctl.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>
    /* Linux 5.2 added these calls; some C libraries lack them. Their numbers are the same on every architecture. */
    #ifndef SYS_open_tree
    #define SYS_open_tree 428
    #define SYS_move_mount 429
    #endif
    #ifndef OPEN_TREE_CLONE
    #define OPEN_TREE_CLONE 1
    #define OPEN_TREE_CLOEXEC O_CLOEXEC
    #define MOVE_MOUNT_F_EMPTY_PATH 0x00000004
    #define MOVE_MOUNT_T_SYMLINKS 0x00000010
    #endif
    #ifndef AT_RECURSIVE
    #define AT_RECURSIVE 0x8000
    #endif
    static int clone_mount(const char *path, int below)
    {
        return (int)syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (below ? AT_RECURSIVE : 0));
    }
    static int place_mount(int mount, const char *target)
    {
        return (int)syscall(SYS_move_mount, mount, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS);
    }
    /* Landlock (linux/landlock.h): Linux 5.13; the numbers are the same on every architecture. */
    #ifndef SYS_landlock_create_ruleset
    #define SYS_landlock_create_ruleset 444
    #define SYS_landlock_add_rule 445
    #define SYS_landlock_restrict_self 446
    #endif
    static int keep_directory(int directory)
    {
        enum { WRITE_FILE = 1 << 1, REMOVE_FILE = 1 << 5, MAKE_REG = 1 << 8, TRUNCATE = 1 << 14, ABI_1 = (1 << 13) - 1 };
        long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, 1 /* LANDLOCK_CREATE_RULESET_VERSION */);
        unsigned long long handled = abi >= 3 ? ABI_1 | 1 << 13 | TRUNCATE : ABI_1;
        struct {
            unsigned long long allowed;
            int parent;
        } __attribute__((packed)) beneath = {WRITE_FILE | REMOVE_FILE | MAKE_REG | (abi >= 3 ? TRUNCATE : 0), directory};
        long rules;

        if (abi < 1 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
            return -1;
        rules = syscall(SYS_landlock_create_ruleset, &handled, sizeof(handled), 0);
        if (rules < 0 || syscall(SYS_landlock_add_rule, rules, 1 /* LANDLOCK_RULE_PATH_BENEATH */, &beneath, 0))
            return -1;
        return (int)syscall(SYS_landlock_restrict_self, rules, 0);
    }
    static int die_after(long milliseconds)
    {
        struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
        struct itimerspec at = {.it_value = {milliseconds / 1000, milliseconds % 1000 * 1000000}};
        timer_t timer;

        return timer_create(CLOCK_MONOTONIC, &event, &timer) ? -1 : timer_settime(timer, 0, &at, NULL);
    }
    """,
    extra_compile_args=["-D_GNU_SOURCE", "-Wall", "-Wextra"],
)
