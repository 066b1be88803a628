"""Runs a command under a filter of somebody else's, as container runtimes have them: refuse.py CALL[:BITS][,CALL]... COMMAND...

The calls (numbers; none: "-") fail with EPERM, for the command and everything it starts; all others are allowed. With BITS, a call
fails only if its first argument has one of them.
"""

import ctypes
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | 1
LOAD_NUMBER, LOAD_ARGUMENT, EQUAL, HAS, RETURN = (0x20, 0, 0, 0), (0x20, 0, 0, 16), 0x15, 0x45, 0x06


def main(calls: str, *command: str) -> None:
    program = []
    for call in calls.split(",") if calls != "-" else ():
        number, _, bits = call.partition(":")
        condition = [LOAD_ARGUMENT, (HAS, 0, 1, int(bits))] if bits else []
        program += [LOAD_NUMBER, (EQUAL, 0, len(condition) + 1, int(number)), *condition, (RETURN, 0, 0, REFUSE)]
    program.append((RETURN, 0, 0, ALLOW))
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    held = ctypes.create_string_buffer(code)
    fprog = struct.pack("@HP", len(program), ctypes.addressof(held))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, fprog, 0, 0) == 0, os.strerror(ctypes.get_errno())
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
