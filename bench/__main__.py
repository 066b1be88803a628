"""`python -m bench`: find the translators, run the inner half in namespaces of its own, write the results.

Hermetic: everything runs as an ordinary user (of UID 1000, or --uid, where it is started as root) in new user, network,
mount and PID namespaces; no frame leaves them, and they end with this process, however it ends.
"""

import argparse
import contextlib
import fnmatch
import importlib.util
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import report
from .cells import all_cells
from .model import DIRECT, OURS, PEER, Cell, Order, Subject

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
FETCHED = CHECKOUT / "build" / "peer" / "usr" / "bin" / "pasta"  # where `make bench-peer` puts it
SPARE_FDS = 1024  # of an endpoint and a translator, beside those for many connections or ports
TOOLS = ("cc", "ip", "mount", "setpriv", "unshare")


class BenchError(Exception):
    """Something that the user must know and can change; one line."""


def version_of(path: str, kind: str) -> str:
    """A short name for the version of the program, or of its Debian package where the program does not know."""
    done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False)
    words = (done.stdout or done.stderr).split("\n", 1)[0].split()
    text = words[-1] if words else "unknown"
    if "unknown" in words and shutil.which("dpkg-query"):
        query = ["dpkg-query", "-W", "-f", "${Version}", "passt" if kind == "pasta" else kind]
        package = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False).stdout.strip()
        text = f"Debian {package}" if package else "unknown"
    return text


def ours() -> Path:
    """Our own entry point: $PASTA_UNDER_TEST, or `pasta` beside this Python."""
    return Path(os.environ.get("PASTA_UNDER_TEST") or Path(sys.executable).parent / "pasta").absolute()


def elsewhere(name: str) -> str:
    """The program of that name on the PATH that is not our own, or ""."""
    own = ours()
    for directory in os.get_exec_path():
        path = Path(directory) / name
        if os.access(path, os.X_OK) and path.is_file():
            mine = own.exists() and (path.samefile(own) or path.parent.resolve() == own.parent.resolve())
            if not mine and path.read_bytes()[:2] != b"#!":
                return str(path)
    return ""


def find_subjects(only: list[str], also: list[str]) -> list[Subject]:
    """DIRECT, ours, and those on the PATH; `also` has NAME=PATH of further programs with pasta's command line."""
    found = [Subject(DIRECT, DIRECT, "", "the same endpoints, no translator")]
    if ours().exists():
        found.append(Subject(OURS, "pasta", str(ours()), version_of(str(ours()), "pasta")))
    else:
        print(f"bench: no {ours()}: install the project beside this Python, or set PASTA_UNDER_TEST", file=sys.stderr)
    for name, kind in ((PEER, "pasta"), ("slirp4netns", "slirp4netns")):
        path = elsewhere("pasta" if kind == "pasta" else kind)
        if name == PEER and FETCHED.exists():
            path = str(FETCHED)
        if path:
            found.append(Subject(name, kind, path, version_of(path, kind)))
        elif not only or name in only:
            how = "install passt, or run `make bench-peer`" if name == PEER else "install it"
            print(f"bench: no {name} found: the table will be without it; to compare, {how}", file=sys.stderr)
    for each in also:
        name, _, path = each.partition("=")
        if not name or not Path(path).is_file() or not os.access(path, os.X_OK):
            raise BenchError(f"--also '{each}': not NAME=PATH of a program; for example --also passt-new=/opt/pasta")
        if name in [subject.name for subject in found]:
            raise BenchError(f"--also '{each}': there is a {name} already: choose another name")
        found.append(Subject(name, "pasta", str(Path(path).absolute()), version_of(path, "pasta")))
    for name in only:
        if name not in [subject.name for subject in found]:
            raise BenchError(f"--subject '{name}': not found here; there are {', '.join(s.name for s in found)}")
    return [subject for subject in found if not only or subject.name in only]


def choose_cells(options: argparse.Namespace) -> list[Cell]:
    """The cells to measure: by --quick, --only (keys) and --cell (parts of names); both take patterns."""
    cells = [cell for cell in all_cells() if cell.quick or not options.quick]
    for pattern in options.only.split(",") if options.only else []:
        if not any(fnmatch.fnmatch(cell.key, pattern) for cell in cells):
            raise BenchError(f"--only '{pattern}': no cell has such a key; --list shows them")
    if options.only:
        cells = [cell for cell in cells if any(fnmatch.fnmatch(cell.key, each) for each in options.only.split(","))]
    if options.cell:
        wanted = [pattern.lower() for pattern in options.cell]
        cells = [cell for cell in cells if any(fnmatch.fnmatch(cell.name.lower(), f"*{each}*") for each in wanted)]
    if not cells:
        raise BenchError(f"--cell {options.cell}: no cell has such a name; --list shows them")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    within = [cell for cell in cells if cell.work.role not in ("idle", "start") or cell.work.a + SPARE_FDS <= limit]
    if len(within) < len(cells):
        line = f"cells left out: the limit of descriptors is {limit}, they need up to"
        most = max(cell.work.a for cell in cells) + SPARE_FDS
        line = f"{len(cells) - len(within)} {line} {most}: raise it (ulimit -Hn)"
        if not within:
            raise BenchError(line)
        print(f"bench: {line}", file=sys.stderr)
    return within


def closed_directories(needed: list[Path]) -> dict[Path, list[Path]]:
    """The directories that an ordinary user may not enter, each with what lies in it and is needed."""
    views: dict[Path, list[Path]] = {}
    for path in sorted({each.resolve() for each in needed}):
        closed = [above for above in path.parents if not above.stat().st_mode & 0o001]
        if closed and not any(path.is_relative_to(taken) for taken in views.get(closed[-1], [])):
            views.setdefault(closed[-1], []).append(path)
    return views


def view_script(views: dict[Path, list[Path]]) -> str:
    """Shell lines that, in a mount namespace, put in place of each closed directory one with only what is needed."""
    lines = ["set -e"]
    for number, (closed, paths) in enumerate(views.items()):
        stage = f"/run/bench-{number}"
        lines.append(f"mkdir -p {stage}; mount -t tmpfs -o mode=755 bench {stage}")
        for path in paths:
            inside = f"{stage}/{path.relative_to(closed)}"
            lines.append(f"mkdir -p '{inside}'; mount --bind '{path}' '{inside}'")
        lines.append(f"mount --move {stage} '{closed}'; rmdir {stage}")
    return "\n".join([*lines, 'exec "$@"'])


def inner_python(order: Order, uid: int) -> list[str]:
    """The command of an interpreter as an ordinary user in its own namespaces, mapped to root there."""
    head: list[str] = []
    if os.geteuid() == 0:
        needed = [Path(sys.base_prefix), Path(sys.prefix), CHECKOUT, Path(order.directory)]
        needed += [Path(subject.path).parent for subject in order.subjects if subject.path]
        script = view_script(closed_directories(needed))
        head = ["unshare", "--mount", "sh", "-c", script, "sh"]
        head += ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    spaces = ["unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return [*head, *spaces, sys.executable]


def run_inside(order: Order, uid: int, limit_s: float) -> list[dict[str, Any]]:
    """Run the inner half; the samples of each work. It is told to end when we do, by the closing of a pipe."""
    order_file = Path(order.directory) / "order.json"
    order_file.write_text(json.dumps(order.as_json()))
    if os.geteuid() == 0:
        for path in (order.directory, order_file, order.endpoint):
            os.chown(path, uid, uid)
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONSTARTUP", "PYTHONHOME")}
    environment.update(PYTHONPATH=str(CHECKOUT), PYTHONDONTWRITEBYTECODE="1")
    environment.update(HOME=order.directory, TMPDIR=order.directory)
    python = inner_python(order, uid)
    tried = [*python, "-c", "import sys, bench.inside; open(sys.argv[1]).close()", str(order_file)]
    done = subprocess.run(tried, env=environment, cwd="/", capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        what = "ordinary users must have namespaces (sysctl user.max_user_namespaces)"
        raise BenchError(f"cannot start the measuring half: {said}: {what}, and must be able to read Python and this checkout")
    theirs, lifeline = os.pipe()
    command = [*python, "-m", "bench.inside", str(order_file), str(theirs)]
    process = subprocess.Popen(command, pass_fds=[theirs], env=environment, cwd="/")
    os.close(theirs)
    try:
        status = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        raise BenchError(f"no end within {limit_s:.0f} s; stopped") from None
    finally:
        os.close(lifeline)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()
        process.wait()
    result = Path(order.directory) / "result.json"
    if status or not result.exists():
        raise BenchError(f"the measuring half ended with status {status}")
    return list(json.loads(result.read_text())["works"])


def compile_endpoint(directory: str) -> str:
    """Compile the endpoint program where every user can execute it."""
    Path(directory).chmod(0o755)
    path = f"{directory}/endpoint"
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]
    done = subprocess.run(["cc", *flags, "-o", path, *map(str, sorted(HERE.glob("*.c")))], check=False)
    if done.returncode:
        raise BenchError("the endpoint program does not compile (see above): a C compiler and libc's headers are needed")
    return path


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Compare translators in one hermetic run.")
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer cells, rounds and seconds: under two minutes")
    add("--rounds", type=int, default=0, help="measurements of each cell (default 5; quick: 2)")
    add("--seconds", type=float, default=0, help="length of each measurement (default 0.7; quick: 0.3)")
    add("--only", default="", metavar="CELL[,CELL...]", help="only cells with these keys; may be patterns, see --list")
    add("--cell", action="append", default=[], metavar="PATTERN", help="only cells with this in their name")
    add("--subject", action="append", default=[], metavar="NAME", help="only this translator; may be repeated")
    add("--also", action="append", default=[], metavar="NAME=PATH", help="one more program like pasta")
    add("--json", default="", metavar="FILE", help="where to write all values (default build/bench.json)")
    add("--doc", default="", metavar="FILE", help="Markdown file whose table to replace, and draw a picture beside it")
    add("--page", default="", metavar="FILE", help="Markdown file whose table of a few rows to replace")
    add("--from", dest="source", default="", metavar="JSON", help="measure nothing: print (and --doc) what was written before")
    add(
        "--congestion",
        default="",
        metavar="NAME",
        help="TCP congestion control of all namespaces (default: the kernel's)",
    )
    add("--uid", type=int, default=1000, help="user to run as when started as root (default 1000)")
    add("--list", action="store_true", help="show the cells and translators, and end")
    options = parser.parse_args(arguments)
    if options.rounds < 0 or not 0 <= options.seconds <= 60:
        parser.error("--rounds is 1 or more, and --seconds above 0 and at most 60")
    if not 0 < options.uid < (1 << 32) - 1:
        parser.error("--uid is that of an ordinary user")
    return options


def congestion_control(wanted: str) -> str:
    """The TCP congestion control for all namespaces: the wanted one, or the kernel's own choice."""
    settings = Path("/proc/sys/net/ipv4")
    allowed = (settings / "tcp_allowed_congestion_control").read_text().split()
    if wanted and wanted not in allowed:
        raise BenchError(f"--congestion '{wanted}': the kernel lets ordinary users take only {', '.join(allowed)}")
    return wanted or (settings / "tcp_congestion_control").read_text().strip()


def benchmark(options: argparse.Namespace) -> int:
    """The exit status: 1 where our own translator failed in any cell."""
    subjects, cells = find_subjects(options.subject, options.also), choose_cells(options)
    if options.list:
        print("\n".join(f"{s.name}: {s.version} {s.path}" for s in subjects))
        print("\n".join(f"{cell.key:24} {cell.name}" for cell in cells))
        return 0
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        raise BenchError(f"missing programs: {' '.join(missing)}; install them (Debian: gcc iproute2 mount util-linux)")
    congestion = congestion_control(options.congestion)
    target = Path(options.json) if options.json else CHECKOUT / "build" / "bench.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.open("a").close()  # now, not after a quarter of an hour
    if options.page:
        report.split_document(Path(options.page))
    if options.doc:
        refuse_document(options.doc)
    rounds, seconds = options.rounds or (2 if options.quick else 5), options.seconds or (0.3 if options.quick else 0.7)
    busy = report.busy_share()
    if busy > 0.1:
        print(f"bench: {busy:.0%} of the processors is already in use by others; expect noise", file=sys.stderr)
    begin = time.monotonic()
    works = list(dict.fromkeys(work for cell in cells for work in (cell.work, cell.base) if work))
    with tempfile.TemporaryDirectory(prefix="pasta-bench-") as directory:
        warm = 0.2 if seconds > 0.5 else 0.1
        order = Order(subjects, works, rounds, seconds, warm, congestion, compile_endpoint(directory), directory)
        # The worst case of a measurement is an endpoint that its alarm ends.
        limit_s = 60 + rounds * len(subjects) * len(works) * (seconds + 14)
        samples = run_inside(order, options.uid, limit_s)
    results = report.collect(order, cells, samples, busy, time.monotonic() - begin)
    target.write_text(json.dumps(results, indent=1) + "\n")
    show(results, options.doc, options.page)
    return int(report.ours_failed(results))


def refuse_document(document: str) -> None:
    """BenchError or ValueError where its table and picture cannot be written."""
    report.split_document(Path(document))
    if not os.access(document, os.W_OK) or not os.access(Path(document).parent, os.W_OK):
        raise BenchError(f"--doc '{document}': it and its directory must be writable")
    if not importlib.util.find_spec("matplotlib"):
        raise BenchError("--doc draws a picture with matplotlib, which is missing: run `make dev`, or install it")


def show(results: dict[str, Any], document: str, page: str = "") -> None:
    """Print the table; put it into the document, where there is one, and draw its picture beside it; a few rows into the page."""
    print(report.text(results))
    if document:
        from . import picture  # matplotlib takes a second, and only this needs it

        drawn = Path(document).with_suffix(".svg")
        picture.draw(results, drawn)
        shown = f"![our ratios, cell by cell]({drawn.name})"
        report.into_document(Path(document), f"{report.markdown(results)}\n\n{shown}")
    if page:
        report.into_document(Path(page), report.first_rows(results))


def stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def shown_again(source: str, document: str, page: str = "") -> int:
    """Show a run from its values."""
    if document:
        refuse_document(document)
    try:
        results = json.loads(Path(source).read_text())
        results["cells"] = [report.without_stall(cell) for cell in results["cells"]]
        report.text(results)
    except (ValueError, LookupError, TypeError, AttributeError):
        raise BenchError(f"--from '{source}': this is not what a run has written") from None
    show(results, document, page)
    return 0


def told(job: Callable[[], int]) -> int:
    """The exit status of `job`; what stops it is one line."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a locale without × or µ loses these, not the table
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        return job()
    except (BenchError, OSError, ValueError, subprocess.SubprocessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted; everything it started has ended", file=sys.stderr)
        return 130


def main() -> int:
    options = parse(sys.argv[1:])
    return told(lambda: shown_again(options.source, options.doc, options.page) if options.source else benchmark(options))


if __name__ == "__main__":
    sys.exit(main())
