"""pasta-py ps: the running instances."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pasta_py.control.subcommands import command, containers, instances
from pasta_py.control.subcommands.instances import Instance, plain, size, span, table
from pasta_py.errors import ControlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SUMMARY = "List the running instances of this user."


def main(argv: "Sequence[str]") -> int:
    return command.run("ps", argv, ps, summary=SUMMARY)


def ps(as_json: Annotated[bool, typer.Option("--json", help="One JSON object for each instance, a line each.")] = False) -> int:
    found = [described(instance) for instance in instances.running()]
    if as_json:
        for each in found:
            print(json.dumps(each))
        return 0
    if not found:
        print("No instance is running.", file=sys.stderr)
        return 0
    rows = [["PID", "SINCE", "FLOWS", "SENT", "RECEIVED", "MEMORY", "PROGRAM", "SERVES"]]
    for each in found:
        if "error" in each:
            rows.append([str(each["pid"]), "", "", "", "", "", "", plain(each["error"])])
            continue
        since, memory = span(time.time() - each["since"]), size(each["memory_bytes"]) if each["memory_bytes"] else ""
        rows.append([
            str(each["pid"]), since, str(each["flows"]), size(each["sent_bytes"]), size(each["received_bytes"]), memory,
            plain(each["program"]), plain(each["shown"]),
        ])  # fmt: skip
    print(table(rows, frozenset(range(6))), end="")
    return 0


def described(instance: Instance) -> "dict[str, Any]":
    """What it says of itself, `pid` being the one of its socket and `worker_pid` its own."""
    try:
        answer = instance.ask("status")
    except ControlError as error:
        return {"pid": instance.pid, "socket": instance.path, "error": str(error)}
    worker = int(answer.pop("pid"))
    answer = {name: value for name, value in answer.items() if name not in ("v", "id")}
    more = {"shown": containers.served(str(answer["serves"])), "memory_bytes": memory_bytes(worker)}
    return {"pid": instance.pid, "worker_pid": worker, "socket": instance.path, **answer, **more}


def memory_bytes(pid: int) -> int:
    """Resident memory of a process (proc_pid_status(5)); 0 if that is not known."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    resident = status.partition("VmRSS:")[2].split()
    return int(resident[0]) * 1024 if resident else 0
