#!/bin/sh
# A SIGINT that comes while Python starts is sometimes swallowed: the program goes on as if Ctrl-C had not been typed.
#
# Seen:     Python 3.11.2 (Debian 12) and 3.11.7, Linux 6.18.
# Input:    python3 -IS -c 'import time; time.sleep(30)', and a SIGINT before it sleeps, at a random moment, up to 5,000 times.
# Expected: each of them ends, by the signal, or with status 1 and a traceback of KeyboardInterrupt.
# Observed: some do not end. Python installs its handler of SIGINT early in its initialisation; where the KeyboardInterrupt is raised
#           in a part of it whose exceptions are cleared, nothing is left of it. Others print a fatal error of the initialisation.
#           A caller that must be sure sends SIGTERM, which Python leaves to the kernel, or repeats the SIGINT.
#
# Needs python3. Takes up to three minutes. Exit status 0: it is still so.
set -eu
python3 --version
exec python3 - <<'PY'
import random
import signal
import subprocess
import sys
import time

PROGRAM = [sys.executable, "-IS", "-c", "print(flush=True); import time; time.sleep(30)"]


def ended(process):
    """Whether it ends, once it has begun to sleep or without; False if it sleeps and the signal is nowhere pending."""
    said = process.stdout.read(1)
    try:
        process.wait(2 if said else 30)
    except subprocess.TimeoutExpired:
        return False
    return True


started = time.perf_counter()
with subprocess.Popen(PROGRAM, stdout=subprocess.PIPE) as process:
    process.stdout.read(1)
    start_s = time.perf_counter() - started
    process.kill()
lost = 0
for tries in range(1, 5001):
    with subprocess.Popen(PROGRAM, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        until = time.perf_counter() + random.uniform(0, start_s)
        while time.perf_counter() < until:
            pass
        process.send_signal(signal.SIGINT)
        lost += not ended(process)
        process.kill()
    if lost:
        break
print(f"{lost} of {tries} lost")
sys.exit(not lost)
PY
