"""What the egress policy costs where there is none, with tests/e2e and tests/programs in PYTHONPATH:

    python tests/measure/policy_off.py [PAIRS]

Builds the program a second time, in build/no-policy, where the C core has no policy: names that are verified, detours and rates
are compiled out too. Then two guests of one host, one of each program, by turns open and close connections for half a second, and
take a stream for half a second. Prints medians and that of the pairs' ratios, and the worker's PSS after it. $PASTA_UNDER_TEST
names the program as it is (tests/as_installed.sh).
"""

import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import prepare
from lab import NO_PORTS, Lab
from many_rules_speed import ask, serving, tell

WITHOUT = prepare.ROOT / "build" / "no-policy"
#: Read as what they are without a policy, so that the compiler leaves out what depends on them. Assignments stay.
CONSTANT = (
    (r"\b(?:\w+(?:->|\.))*io(?:->|\.)(egress|detours)\b(?!\s*=[^=])", r"((struct \1 *)0)"),
    (r"\b(?:\w+(?:->|\.))*io(?:->|\.)rate_(?:in|out)\b(?!\s*=[^=])", "((struct rate *)0)"),
    (r"\b(?:\w+(?:->|\.))*io(?:->|\.)(?:frame_waits|mapping->serves_dns)\b(?!\s*=[^=])", "false"),
    (r"\bf->verify\b(?!\s*\|?=[^=])", "0"),
    (r"!t->proofs\b", "true"),
)
WHERE = ("io/gate.h", "plane/shard.c", "plane/demux.c", "proto/*.[ch]")


def build() -> Path:
    prepare.copy(WITHOUT)
    for path in (path for pattern in WHERE for path in (WITHOUT / "csrc").glob(pattern)):
        text = path.read_text(encoding="utf-8")
        for pattern, constant in CONSTANT:
            text = re.sub(pattern, constant, text)
        path.write_text(text, encoding="utf-8")
    log = WITHOUT / "build.log"
    with log.open("w") as out:
        step = [sys.executable, "setup.py", "build_ext", "--inplace"]
        subprocess.run(step, cwd=WITHOUT, env={**os.environ, "CFLAGS": "-w"}, stdout=out, stderr=out, check=True)
        script = (WITHOUT / "tests" / "as_installed.sh", sys.prefix, WITHOUT / "installed")
        subprocess.run(["sh", *script], stdout=out, stderr=out, check=True)
    return WITHOUT / "installed" / "bin" / "pasta"


def pss_kib(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.findall(r"^Pss: +(\d+)", text, re.MULTILINE)[0])


def main() -> None:
    pairs, compiled_out = int(sys.argv[1]) if len(sys.argv) > 1 else 15, build()
    with Lab() as lab, serving(lab), lab.guest(*NO_PORTS, peer=compiled_out) as without:
        (first,) = lab.translators()
        with lab.guest(*NO_PORTS) as off:
            (second,) = set(lab.translators()) - {first}
            taken = [(ask(without), ask(off)) for _ in range(pairs)]
            memory = [statistics.median(pss_kib(pid) for _ in range(3)) for pid in (first, second)]
    tell(taken, "compiled out", "with the policy off")
    print(f"worker: {memory[0]:.0f} KiB compiled out, {memory[1]:.0f} KiB with the policy off")


if __name__ == "__main__":
    main()
