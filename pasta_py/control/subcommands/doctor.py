"""`pasta-py doctor`: whether this machine has what the program needs, and for what is wrong the one command that mends it.

Namespaces and the tap are tried, in a child, as a start makes them. What a start that fails would say has the same texts:
control/requirements has them.
"""

import os
import sys

from pasta_py import defaults
from pasta_py.control.commandline.notices import show
from pasta_py.control.guest import tap, try_namespaces
from pasta_py.control.requirements import kernel, names, runtimes, tun, user
from pasta_py.control.requirements.finding import FINE, WRONG, Finding, fine, wrong
from pasta_py.control.requirements.settings import Cause
from pasta_py.control.subcommands import command
from pasta_py.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_SUMMARY = (
    "Check whether this machine has what pasta-py needs, and print a command against each thing that is wrong. "
    "Exit status 1: something is wrong."
)
_COLUMN = 20


def main(argv: "Sequence[str]") -> int:
    """The exit status: 1 if anything is wrong."""
    from typing import Annotated

    import typer

    def doctor(
        as_json: Annotated[bool, typer.Option("--json", help="One JSON document: checks and versions (docs/doctor.md).")] = False,
    ) -> int:
        findings = look()
        show(_as_json(findings) if as_json else _as_text(findings))
        return status(findings)

    return command.run("doctor", argv, doctor, summary=_SUMMARY)


def status(findings: list[Finding]) -> int:
    """The exit status."""
    return 1 if any(finding.status == WRONG for finding in findings) else 0


def look() -> list[Finding]:
    """All checks, in the order in which a start meets them."""
    containers = runtimes.installed()
    return [
        *kernel.check(),
        *_namespaces(),
        *user.check(containers=bool(containers)),
        names.check(),
        *runtimes.check(),
    ]


def _namespaces() -> list[Finding]:
    device = _device()
    refusal: try_namespaces.Refusal | None = None
    if device.status == FINE:
        try:
            refusal = try_namespaces.first_refusal(then=_make_tap)
        except HostError as error:
            device = wrong(tun.DEVICE, Cause(text=str(error), remedy=""))
    else:
        refusal = try_namespaces.first_refusal()
    if refusal is None:
        return [device, fine("namespaces", "this user can make those of every kind")]
    found = refusal.cause()
    if refusal.path:
        found = Cause(text=f"{refusal.path}: {os.strerror(refusal.number)}: {found.text}", remedy=found.remedy)
    return [device, wrong(f"{refusal.kind} namespaces", found)]


def _make_tap() -> None:
    os.close(tap.create(defaults.IFNAME).fd)


def _device() -> Finding:
    try:
        os.close(os.open(tun.DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        return wrong(tun.DEVICE, tun.cause(error.errno or 0) or Cause(text=str(error.strerror), remedy=""))
    if not tun.is_tun():
        return wrong(tun.DEVICE, tun.OTHER)
    return fine(tun.DEVICE, "this user can open it")


def _printable(text: str) -> str:
    """File names and settings of others may hold anything: nothing of it may steer the terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _as_text(findings: list[Finding]) -> str:
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:<8} {finding.check:<{_COLUMN}} {_printable(finding.text)}")
        if finding.status != FINE and finding.remedy:
            lines.append(f"{'':8} {'':{_COLUMN}} -> {_printable(finding.remedy)}")
    for name, said in _versions().items():
        lines.append(f"{'version':<8} {name:<{_COLUMN}} {_printable(said)}")
    worse = [finding.check for finding in findings if finding.status == WRONG]
    lines.append(f"Wrong: {', '.join(worse)}." if worse else "Nothing is wrong.")
    return "\n".join(lines) + "\n"


def _versions() -> dict[str, str]:
    from pasta_py import __version__

    python = f"{sys.version.split()[0]} ({sys.executable})"
    return {"pasta-py": __version__, "python": python, **runtimes.versions()}


def _as_json(findings: list[Finding]) -> str:
    import json

    checks = [{name: getattr(finding, name) for name in Finding._fields} for finding in findings]
    document = {"version": 1, "wrong": bool(status(findings)), "checks": checks, "versions": _versions()}
    return json.dumps(document, indent=2) + "\n"
