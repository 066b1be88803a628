"""The benchmark's own arithmetic, its table of cells, and one short run of the real thing with no translator."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as program
from bench import figures, heuristics, inside, machines, picture, readme, report, vm
from bench.cells import all_cells
from bench.model import Cell, Order, Subject, Work

pytestmark = pytest.mark.unsanitized

ROOT = Path(__file__).resolve().parents[1]
METRICS = {
    "tcp": {"gbit", "cpu_s_per_gb", "slowest_gbit", "silence_ms", "cpu_share", "resent"},
    "udp": {"gbit", "cpu_s_per_gb", "loss_percent", "offered_gbit", "cpu_share"},
    "quic": {"gbit", "cpu_s_per_gb", "loss_percent", "offered_gbit", "cpu_share"},
    "peers": {"loss_percent", "cpu_us_each", "cpu_share"},
    **dict.fromkeys(("rr", "urr", "crr", "ucrr"), {"p50_us", "p99_us", "max_us", "lost", "per_s", "cpu_share"}),
    "start": {"start_ms", "rss_mb"},
    "idle": {"rate_kept", "connects_per_s", "bytes_per_flow", "idle_cpu_percent"},
}


def samples(*values: "float | None", metric: str = "gbit") -> figures.Samples:
    """One sample a round; None for a failed one."""
    return [{"values": {} if v is None else {metric: v}, "error": "broken" if v is None else ""} for v in values]


def test_medians_leave_out_what_failed() -> None:
    assert figures.middle(figures.good(samples(1, None, 5, 3), "gbit")) == 3
    assert figures.middle(figures.good(samples(1, 2), "gbit")) == 1.5
    assert figures.middle(figures.good(samples(None), "gbit")) is None


def test_ratios_are_taken_pair_by_pair() -> None:
    # The medians' ratio would be 2 / 10; the rounds say 0.1, 0.5 and 2.
    assert figures.ratio(samples(1, 2, 20), samples(10, 4, 10), "gbit") == 0.5


def test_a_round_without_both_ends_has_no_ratio() -> None:
    assert figures.ratio(samples(1, None, 9), samples(None, 4, 3), "gbit") == 3
    assert figures.ratio(samples(1), samples(0), "gbit") is None
    assert figures.ratio([], samples(1), "gbit") is None


def test_failures_are_counted_with_the_commonest_reason() -> None:
    taken = samples(1, None, None)
    assert figures.failures(taken) == "2 of 3: broken"
    assert figures.failures(samples(1)) == ""


def test_a_base_divides_round_by_round() -> None:
    quotients = figures.divided(samples(6, None, 8), samples(2, 1, 0), "gbit")
    assert figures.good(quotients, "gbit") == [3]
    assert [bool(each["error"]) for each in quotients] == [False, True, False]


@pytest.mark.parametrize(
    ("words", "value", "met"),
    [
        ("gbit >= 0.8 direct", 0.9, True),
        ("gbit >= 1 direct", 0.9, False),
        ("gbit <= 3 passt", 3, True),
        ("gbit >= 0.5 steady", None, None),
        ("gbit >= 8 worst", 8, True),
        ("gbit <= 11 worst", 12, False),
        ("gbit <= 8", 9, False),
        ("resent <= 0", None, None),
    ],
)
def test_a_target_is_judged(words: str, value: "float | None", met: "bool | None") -> None:
    taken = {"pasta-py": samples(8, 9, 12), "direct": samples(10, 10, 10), "passt": samples(3, 3, 3)}
    verdict = figures.Target.parse(words).judge(taken, "pasta-py", "gbit")
    assert verdict["met"] is met
    assert verdict["value"] == value or math.isclose(verdict["value"], value or 0)


def test_what_must_never_be_is_not_outvoted() -> None:
    """Two rounds of five with a retransmission: their median has none."""
    taken = {"pasta-py": samples(0, 3, 0, 0, 1, metric="resent")}
    verdict = figures.Target.parse("resent <= 0 worst").judge(taken, "pasta-py", "gbit")
    assert (verdict["value"], verdict["met"]) == (3, False)


def test_the_slowest_half_second_stands_against_the_median() -> None:
    rounds = [{"values": {"gbit": rate, "slowest_gbit": slowest}, "error": ""} for rate, slowest in ((10, 9), (8, 3), (9, 8))]
    verdict = figures.Target.parse("gbit >= 0.5 steady").judge({"pasta-py": rounds}, "pasta-py", "gbit")
    assert (verdict["value"], verdict["met"]) == (3 / 9, False)


@pytest.mark.parametrize(("mine", "met"), [(samples(9, 9, None), False), (samples(None, None, None), False), ([], None)])
def test_a_target_is_missed_where_we_failed_and_open_where_nothing_was_measured(
    mine: figures.Samples, met: "bool | None"
) -> None:
    taken = {"pasta-py": mine, "passt": samples(3, 3, 3)}
    assert figures.Target.parse("gbit >= 2 passt").judge(taken, "pasta-py", "gbit")["met"] is met


def test_a_peer_that_always_failed_is_no_target_met() -> None:
    taken = {"pasta-py": samples(9, 9), "passt": samples(None, None)}
    assert figures.Target.parse("gbit >= 2 passt").judge(taken, "pasta-py", "gbit")["met"] is None


@pytest.mark.parametrize("words", ["gbit > 1", "gbit >= 1 slirp4netns", "gbit >= one", "gbit >= 1 direct twice"])
def test_a_target_that_nobody_understands_is_refused(words: str) -> None:
    with pytest.raises(ValueError):
        figures.Target.parse(words)


def test_the_cells_can_be_told_apart_and_show_what_is_measured() -> None:
    cells = all_cells()
    assert len({cell.key for cell in cells}) == len({cell.name for cell in cells}) == len(cells)
    for cell in cells:
        assert "," not in cell.key
        targets = [figures.Target.parse(words) for words in cell.targets]
        for metric in [cell.metric, *(target.metric for target in targets)]:
            assert metric in METRICS[cell.work.role], cell.key
        for target in targets:
            assert target.of not in ("direct", "passt") or {"direct": "direct", "passt": "pasta"}[target.of] in cell.work.kinds


def test_reports_become_figures() -> None:
    slices = [40_000_000, 20_000_000, 10_000_000, 10_000_000, 25_000_000, 30_000_000, 40_000_000]
    end = {"bytes": 250_000_000, "seconds": 1.0, "total": 500_000_000, "slices": slices}
    ends = [{**end, "silence_ms": s} for s in (2, 7)]
    sample = inside.combine("tcp", ends, 0.5, 2.0)
    # The slowest half second is the second to the sixth tenth: 95 MB.
    assert sample.values == {"cpu_share": 0.25, "gbit": 4.0, "cpu_s_per_gb": 0.5, "slowest_gbit": 2 * 1.52, "silence_ms": 7}
    assert inside.slowest_gbit({**end, "slices": slices[:4]}) == 2.0
    flood: dict[str, Any] = {"bytes": 125_000_000, "seconds": 1.0, "total": 125_000_000, "count": 75, "sent": 100}
    values = inside.combine("udp", [flood], 0.0, 1.0).values
    assert (values["gbit"], values["loss_percent"]) == (1.0, 25.0)
    assert math.isclose(values["offered_gbit"], 4 / 3)
    assert inside.combine("tcp", [ends[0], {"error": "no byte"}], 0, 1).error == "no byte"


def test_every_target_of_the_issue_is_asked_of_its_cells() -> None:
    """Rather the numbers twice than a target that is dropped unseen."""
    asked = {cell.key: cell.targets for cell in all_cells()}
    in_by_mtu = {
        1500: ("gbit >= 0.8 direct", "gbit >= 12 passt", "cpu_s_per_gb <= 0.1 passt"),
        9000: ("gbit >= 0.8 direct", "gbit >= 3.5 passt", "cpu_s_per_gb <= 0.2 passt"),
        65520: ("gbit >= 0.8 direct", "gbit >= 1.4 passt", "cpu_s_per_gb <= 0.65 passt"),
    }
    for family, (mtu, of_in) in itertools.product(("", "-v6"), in_by_mtu.items()):
        assert asked[f"tcp-in-{mtu}{family}"] == asked[f"forward-in-{mtu}{family}"] == of_in
        always = ("cpu_s_per_gb <= 0.4 passt", "gbit >= 0.5 steady", "resent <= 0 worst")
        assert asked[f"tcp-out-{mtu}{family}"] == (f"gbit >= {0.8 if mtu == 65520 else 0.5} direct", *always)
    for key in ("tcp8-in", "tcp8-out", "tcp-both"):
        assert asked[f"{key}-1500"] == asked[f"{key}-65520"] == ("gbit >= 0.7 direct",)
    for key in ("splice-t-in", "splice-t-out", "splice-T-in", "splice-T-out"):
        assert asked[key] == ("gbit >= 1.0 passt", "cpu_s_per_gb <= 1.0 passt")
    for way, times in (("out", 1.5), ("in", 2.5)):
        assert asked[f"udp1400-{way}"] == (f"gbit >= {times} passt", "cpu_s_per_gb <= 0.4 passt")
        assert asked[f"udp100-{way}"] == asked[f"udp8192-{way}"] == ("gbit >= 1.0 passt",)
        assert asked[f"udp-rate-{way}"] == ("loss_percent <= 0 worst",)
        assert asked[f"quic-{way}"] == ("gbit >= 5 passt",)
        for count in (8, 64, 512):
            assert asked[f"cost{count}-{way}"] == ("cpu_s_per_gb <= 1.3",)
    for proto, percentile in itertools.product(("tcp", "udp"), ("p50", "p99")):
        assert asked[f"{proto}-rr-{percentile}"] == (f"{percentile}_us <= 1.0 passt",)
        assert asked[f"greedy-{proto}"] == ("p99_us <= 2",)
    assert asked["tcp-crr"] == ("per_s >= 1.2 passt",)
    assert asked["start"] == ("start_ms <= 2 passt",)
    assert asked["memory"] == ("rss_mb <= 12",)
    for metric, name in (("start_ms", "start"), ("rss_mb", "rss")):
        assert asked[f"ports1000-growth-{name}"] == asked[f"ports10000-growth-{name}"] == (f"{metric} <= 1.0 passt",)
    assert asked["idle-memory"] == ("bytes_per_flow <= 600",)
    assert asked["idle-cpu"] == ("idle_cpu_percent <= 0 worst",)
    assert asked["idle-rate"] == ("rate_kept >= 0.9",)


def results() -> dict[str, Any]:
    """A made-up run of two cells: one with more being better, one with less."""
    subjects = [Subject("direct", "direct", "", ""), Subject("pasta-py", "pasta", "/p", "1"), Subject("passt", "pasta", "/q", "2")]
    works = [Work("tcp", a=1), Work("rr")]
    cells = [
        Cell("bulk", "bulk", works[0], "gbit", "Gb/s", targets=("gbit >= 0.8 direct", "gbit >= 3 passt")),
        Cell("wait", "wait", works[1], "p50_us", "µs", more=False, targets=("p50_us <= 1 passt",)),
    ]
    taken = [
        {"direct": samples(10, 10), "pasta-py": samples(9, 9), "passt": samples(4.5, 4.5)},
        {name: samples(v, v, metric="p50_us") for name, v in (("direct", 50), ("pasta-py", 80), ("passt", 100))},
    ]
    order = Order(subjects, works, 2, 1.0, 0.2, "reno", "", "")
    return report.collect(order, cells, taken, 0.0, 1.0)


def test_the_table_says_what_is_met() -> None:
    rows = {row[0]: row for row in report.rows(results())}
    assert rows["bulk"][-1] == "≥ 0.8 × direct: 0.90 met; ≥ 3 × passt: 2.00 **missed**"
    assert rows["wait"][-1] == "≤ 1 × passt: 0.80 met"
    assert "2 met, 1 missed" in report.summary(results())


def test_nothing_is_compared_with_a_peer_that_stalls() -> None:
    """passt's window and this kernel's send buffer: it carries thousandths, and "2,000 times as fast" would say nothing."""
    cells = [Cell("bulk", "bulk", Work("tcp"), "gbit", "Gb/s", targets=("gbit >= 0.8 direct", "cpu_s_per_gb <= 0.4 passt"))]
    for peer, ratio, met in ((0.02, None, [True, None]), (1.0, 30.0, [True, True])):
        took = {"pasta-py": (30.0, 0.2), "direct": (33.0, 0.0), "passt": (peer, 2.0)}
        taken = {name: [{"values": {"gbit": gbit, "cpu_s_per_gb": cost}, "error": ""}] for name, (gbit, cost) in took.items()}
        cell = report.without_stall(figures.cell_figures(cells[0], {cells[0].work: taken}, list(taken)))
        assert (cell["ratio"]["passt"], cell["ratio"]["direct"]) == (ratio, pytest.approx(30 / 33))
        assert [target["met"] for target in cell["targets"]] == met
        assert (cell["cpu_ratio"] is None) == (ratio is None)


def test_the_page_for_users_has_ten_rows_of_the_cells_that_there_are() -> None:
    known = {cell.key for cell in all_cells()}
    assert len(report.FIRST) == 10 and set(report.FIRST) <= known
    run = results()
    run["cells"][0]["key"] = "tcp-in-1500"
    *_, row = report.first_rows(run).splitlines()
    assert row.startswith("| bulk | Gb/s | ")


def test_the_readme_has_the_figures_of_the_page() -> None:
    """`python -m bench.readme` writes them."""
    text, page = ((ROOT / name).read_text() for name in ("README.md", "docs/performance.md"))
    assert readme.written(text, page) == text
    small, start = (readme.measured(page)[name] for name in ("small", "start"))
    changed = readme.written(text, page.replace(f"| {small['pasta-py']} |", "| 77.7 |"))
    assert "77.7 Gb/s at MTU 1500" in " ".join(changed.split())
    assert "starts about twice as slowly as passt" not in text or 1.5 < float(start["pasta-py"]) / float(start["passt"]) < 2.5
    with pytest.raises(ValueError, match="not one"):
        readme.written(text.replace("| start; memory when idle |", "| start |"), page)
    with pytest.raises(ValueError, match="lacks memory when idle"):
        readme.written(text, page.replace("| memory when idle", "| memory"))


def test_the_picture_has_better_to_the_right_and_shows_every_cell(tmp_path: Path) -> None:
    run = json.loads(json.dumps(results()))
    bar = picture.bar(run["cells"][1], "passt")
    assert bar is not None
    assert (bar.value, bar.limit, bar.met) == (1.25, 1.0, True)
    picture.draw(run, tmp_path / "picture.svg")
    drawn = (tmp_path / "picture.svg").read_text()
    assert drawn.count(">bulk<") == drawn.count(">wait<") == 1


def test_only_the_marked_part_of_a_document_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.into_document(page, "new")
    assert page.read_text() == f"before\n{report.BEGIN}\n\nnew\n\n{report.END}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="no lines"):
        report.into_document(page, "new")


def test_cells_are_chosen_by_key_and_unknown_ones_are_refused() -> None:
    chosen = program.choose_cells(program.parse(["--only", "tcp-rr-p50,udp-rate-*"]))
    assert [cell.key for cell in chosen] == ["udp-rate-out", "udp-rate-in", "tcp-rr-p50"]
    with pytest.raises(program.BenchError, match="'nothing'"):
        program.choose_cells(program.parse(["--only", "tcp-rr-p50,nothing"]))


REFUSED = {
    ("--rounds", "-1"): "--rounds is 1 or more",
    ("--seconds", "nan"): "--seconds above 0",
    ("--also", "direct=/bin/true"): "there is a direct already",
    ("--also", "new=/bin"): "not NAME=PATH of a program",
    ("--doc", "/dev/null"): "no lines '<!-- table",
    ("--json", "/proc/none/bench.json"): "/proc/none",
    ("--from", "/dev/null"): "'/dev/null': this is not what a run has written",
    ("--from", "/nowhere"): "No such file",
    ("--uid", "-5"): "--uid is that of an ordinary user",
    ("--congestion", "magic"): "'magic': the kernel lets",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_what_cannot_be_taken_is_told_before_anything_is_measured(arguments: tuple[str, ...]) -> None:
    run = bench(*arguments)
    out, err = run.communicate(timeout=60)
    assert run.returncode in (1, 2)
    assert out == ""
    assert REFUSED[arguments] in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_machine_without_namespaces_or_compiler_is_told_in_one_line(tmp_path: Path) -> None:
    """Stand-ins for what a machine may lack: first on the PATH, and the only ones."""
    for tool in program.TOOLS:
        (tmp_path / tool).symlink_to("/bin/false")
    run = bench("--only", "tcp-in-1500", PATH=str(tmp_path))
    assert "bench: the endpoint program does not compile" in run.communicate(timeout=60)[1].splitlines()[-1]
    (tmp_path / "cc").unlink()
    run = bench("--only", "tcp-in-1500", PATH=str(tmp_path))
    assert run.communicate(timeout=60)[1].splitlines()[-1].startswith("bench: missing programs: cc; install them")
    (tmp_path / "cc").symlink_to("/usr/bin/cc")
    run = bench("--only", "tcp-in-1500", PATH=f"{tmp_path}:/usr/bin")
    err = run.communicate(timeout=60)[1].splitlines()
    assert err[-1].startswith("bench: cannot start the measuring half: exit status 1: ordinary users must have namespaces")


def test_cells_beyond_the_limit_of_descriptors_are_left_out() -> None:
    limit = ["prlimit", "--nofile=5000:5000", sys.executable, "-m", "bench", "--list", "--subject", "direct"]
    done = subprocess.run(limit, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.startswith("bench: 7 cells left out: the limit of descriptors is 5000, they need up to 16024: raise it")
    assert "ports1000-start" in done.stdout and "idle-" not in done.stdout and "ports10000-" not in done.stdout


def test_the_table_is_printed_in_a_locale_that_lacks_its_signs() -> None:
    run = bench("--only", "tcp-rr-p50", "--list", PYTHONIOENCODING="ascii")
    assert run.communicate(timeout=60)[1] == ""
    run = bench("--only", "tcp-rr-p50", "--seconds", "0.1", "--json", "/dev/null", PYTHONIOENCODING="ascii")
    assert "?s" in run.communicate(timeout=60)[0]
    assert run.returncode == 0


def bench(*arguments: str, **options: Any) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "bench", "--subject", "direct", "--rounds", "1", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env={**environment, **options}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_short_run_of_the_endpoints_alone_fills_every_kind_of_cell(tmp_path: Path) -> None:
    streams = "tcp-in-65520,tcp-out-1500-v6,tcp-both-1500,forward-in-1500,splice-t-in"
    cells = f"{streams},udp100-out,udp-rate-in,quic-*,*-rr-p50,tcp-crr,greedy-udp"
    run = bench("--only", cells, "--seconds", "0.1", "--json", str(tmp_path / "run.json"))
    out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    measured = json.loads((tmp_path / "run.json").read_text())["cells"]
    assert len(measured) == 13
    for cell in measured:
        assert not cell["failed"]
        assert cell["median"]["direct"] >= 0, cell["name"]
        assert cell["median"]["direct"] > 0 or cell["metric"] == "loss_percent"
        assert cell["name"] in out


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    run = bench("--only", "tcp-in-65520", "--seconds", "30", TMPDIR=str(tmp_path))
    assert run.stderr is not None

    def ours() -> list[str]:
        """The command lines of the processes that know the run's directory."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(tmp_path) in command:
                found.append(command.decode(errors="replace"))
        return found

    deadline = time.monotonic() + 60
    while not any("tcp-load" in command for command in ours()):
        assert time.monotonic() < deadline and run.poll() is None, "the endpoints run"
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=60)
    assert run.returncode == 130
    assert ours() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", heuristics.OFF)
def test_each_heuristic_of_the_core_can_be_switched_off(name: str, tmp_path: Path) -> None:
    header = (ROOT / heuristics.SCHED).read_text()
    without = heuristics.edited(header, name)
    changed = [line for line in without.splitlines() if line not in header.splitlines()]
    assert len(changed) == len(heuristics.OFF[name]) and heuristics.edited(header, heuristics.NORMAL) == header
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "sched.h").write_text(without)
    for source in ("plane/shard.c", "proto/tcp.c", "proto/tcp_sock.c", "proto/udp_sock.c"):
        flags = ["-std=c11", "-D_GNU_SOURCE", "-fsyntax-only", f"-I{tmp_path}", f"-I{ROOT / 'csrc'}"]
        subprocess.run(["cc", *flags, ROOT / "csrc" / source], check=True)


def test_the_core_names_cells_of_each_heuristic_that_can_be_switched_off() -> None:
    named = heuristics.named_cells((ROOT / heuristics.SCHED).read_text())
    assert named.keys() == heuristics.OFF.keys()
    assert all(heuristics.cells_of(patterns) for patterns in named.values())
    with pytest.raises(program.BenchError, match="names the cells 'tcp99': there are none"):
        heuristics.cells_of(("tcp8-*", "tcp99"))


def test_an_edit_that_no_longer_fits_is_refused() -> None:
    with pytest.raises(program.BenchError, match="SCHED_LATENCY_MODE_MS 20' is there 0 times"):
        heuristics.edited("#define SCHED_LATENCY_MODE_MS 30\n", "Latency mode")


def test_a_heuristic_pays_where_the_build_without_it_is_worse_than_two_normal_ones_in_turn() -> None:
    def row(metric: str, *values: list[float]) -> heuristics.Row:
        taken = dict(zip((heuristics.NORMAL, heuristics.CHANGED, heuristics.AGAIN), [samples(*v, metric=metric) for v in values]))
        found = heuristics.compared("tcp-in-1500", metric, taken)
        assert found
        return found

    normal, again = [10, 11, 10, 9, 10], [10, 10, 11, 10, 10]
    slower = row("gbit", normal, [8, 7, 8, 8, 12], again)
    assert (slower.ratio, slower.worse, slower.better, slower.rounds, slower.verdict()) == (0.8, 4, 1, 5, "worse")
    assert row("cpu_s_per_gb", normal, [8, 7, 8, 8, 12], again).verdict() == "better"
    assert row("gbit", normal, [8, 7, 12, 12, 12], again).verdict() == ""
    assert row("gbit", normal, [9.9, 9.9, 9.9, 8.9, 9.9], again).verdict() == "", "less than two normal builds differ"
    failed: list[Any] = [8, None, 8, 8, 8]
    assert row("gbit", normal, failed, again).rounds == 4


def tcp(gbit: float, cost: float) -> dict[str, Any]:
    return {"values": {"gbit": gbit, "cpu_s_per_gb": cost}, "error": ""}


def test_the_table_of_machines_judges_rates_costs_and_times() -> None:
    mine, theirs = [tcp(8, 0.3), tcp(6, 0.5), tcp(7, 0.4)], [tcp(2, 1.5), tcp(2, 1.0), tcp(1, 1.0)]
    row = vm.row((machines.UML, "to the guest", 1500), mine, theirs)
    assert row[1:] == ["Gb/s", "7.00", "2.00", "4.00", "≥ 3: met", "0.40", "1.00", "0.40", "≤ 0.3: **missed**"]
    stalled = vm.row((machines.VHOST, "from the guest", 1500), mine, [tcp(0.02, 9)] * 3)
    assert stalled[2:6] == ["7.00", "-", "-", "not measured"], "no ratio is built on a peer that stalls"
    times = [{"values": {"p50_us": value}, "error": ""} for value in (100, 110, 130)]
    assert vm.row((machines.STREAM, "request/response, p50", 1500), times, times)[1:6] == ["us", "110", "110", "1.00", "≤ 1: met"]


def test_the_table_of_machines_goes_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{vm.BEGIN}\nold\n{vm.END}\nafter\n")
    vm.into(page, "new")
    assert page.read_text() == f"before\n{vm.BEGIN}\n\nnew\n\n{vm.END}\nafter\n"


def test_a_page_without_markers_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text("no table\n")
    monkeypatch.setattr(vm, "fetch", lambda: pytest.fail("it went on"))
    for each, said in ((page, "no lines"), (tmp_path / "none.md", "No such file")):
        monkeypatch.setattr("sys.argv", ["vm", "--doc", str(each)])
        with pytest.raises(program.BenchError, match=said):
            vm.main()
