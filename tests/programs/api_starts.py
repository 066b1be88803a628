"""api_starts.py ROUNDS PROGRAM...: prints, as JSON, the processor time in ms of each start of a command, taking turns: through the
API, and by each program on the command line. That of this process counts too: the API works in it.
"""

import json
import resource
import subprocess
import sys

import pasta_py

PORTS = ("-t", "none", "-u", "none", "-T", "none", "-U", "none")  # as the API has them


def used_ms() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in both) * 1000


rounds, programs = int(sys.argv[1]), sys.argv[2:]
took: dict[str, list[float]] = {name: [] for name in ("api", *programs)}
for number in range(rounds + 1):
    for name in [*took][:: 1 if number % 2 else -1]:
        before = used_ms()
        if name == "api":
            pasta_py.run(["true"], check=True)
        else:
            subprocess.run([name, "--config-net", *PORTS, "--", "true"], check=True)
        if number:  # the first one loads what later ones have
            took[name].append(used_ms() - before)
print(json.dumps({"took": took}))
