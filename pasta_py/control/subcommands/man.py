"""`pasta-py man [PROGRAM]`: the manual page of a program, for installations that no MANPATH leads to (uv tool).

`python -m pasta_py.control.subcommands.man DIRECTORY` writes all pages, for the packages.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from pasta_py import __version__
from pasta_py.control.commandline import man as pasta_py_page
from pasta_py.control.commandline.notices import show
from pasta_py.control.pesto import main as pesto
from pasta_py.control.slirp4netns import options as slirp4netns
from pasta_py.control.subcommands import command
from pasta_py.errors import HostError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_SUMMARY = "Show the manual page of a program: pasta-py (pasta and passt too), pesto or slirp4netns."
_HEAD = r""".\" Made by pasta_py/control/subcommands/man.py, from the option table. Make it again with: make man
.TH @TITLE@ 1 "" "pasta\-py @VERSION@" "User Commands"
"""
_PESTO_TOP = r""".SH NAME
pesto \- show or change the port forwarding of a running pasta
.SH SYNOPSIS
.B pesto
.RI [ OPTION ]...
.I SOCKET
.SH DESCRIPTION
.I SOCKET
is what a running
.BR pasta ", " passt " or " pasta\-py
was given with
.BR \-\-conf\-path .
Without options, its rules are shown. A change is made completely or not at all, and connections survive it.
.PP
There are two tables. HOST has the rules of
.BR \-t " and " \-u ,
SPLICE those of
.BR \-T " and " \-U .
Without
.BR \-A ", " \-D " or " \-C
before it, the first
.BR \-t " or " \-u
empties HOST, and the first
.BR \-T " or " \-U
empties SPLICE.
.SH OPTIONS
"""
_PESTO_BOTTOM = r""".SH EXIT STATUS
0 when all was done; 1 otherwise, with one line on standard error.
.SH EXAMPLES
.TP
.B pesto pasta.sock
Show the rules.
.TP
.B pesto \-\-add \-t 8080:80 pasta.sock
Forward one more port.
.TP
.B pesto \-\-delete \-t 8080:80 pasta.sock
Stop doing so. The rule is written as it is shown.
.SH SEE ALSO
.BR pasta\-py (1),
which has the grammar of SPEC.
"""
_SLIRP_TOP = r""".SH NAME
slirp4netns \- user\-mode networking for network namespaces, with the command line of slirp4netns
.SH SYNOPSIS
.B slirp4netns
.RI [ OPTION ]...
.IR PID | PATH | FD
.RI [ TAPNAME ]
.SH DESCRIPTION
Makes the tap
.I TAPNAME
in a network namespace and connects it to the host's network, without privileges. It stays in the foreground. The namespace is that
of the process
.IR PID ,
or with
.B \-\-netns\-type=path
the one at
.IR PATH .
With
.B \-\-netns\-type=tapfd
the descriptor
.I FD
is the tap.
.PP
This is the program of pasta\-py with the options and the API of slirp4netns 1.3.
.SH OPTIONS
"""
_SLIRP_BOTTOM = r""".SH ADDRESSES
In the network of
.B \-\-cidr
the gateway, which is also the host's loopback, is +2, DNS is +3, and the guest is +100 with
.B \-\-configure
or +15 by DHCP.
.SH EXIT STATUS
0 after SIGTERM or SIGINT, or an event of
.BR \-\-exit\-fd ;
1 when something was refused, with one line on standard error.
.SH EXAMPLES
.TP
.B slirp4netns \-\-configure \-\-mtu=65520 \-\-disable\-host\-loopback 12345 tap0
Connect the namespace of process 12345.
.SH SEE ALSO
.BR pasta\-py (1),
.BR rootlesskit (1),
.BR network_namespaces (7)
"""


def _page(title: str, top: str, table: "Iterable[tuple[str, str, str, str]]", bottom: str) -> str:
    """The page of a program whose table has rows of: short form, long form, name of the value, help."""
    parts = [_HEAD.replace("@TITLE@", title).replace("@VERSION@", pasta_py_page.roff(__version__)), top]
    for short, long, value, text in table:
        names = ", ".join(f"\\fB{pasta_py_page.roff(name)}\\fR" for name in ([f"-{short}"] if short else []) + [f"--{long}"])
        metavar = f" \\fI{pasta_py_page.roff(value)}\\fR" if value else ""
        sentence = text[0].upper() + text[1:]
        parts.append(f".TP\n{names}{metavar}\n{pasta_py_page.roff(sentence)}.\n")
    return "".join(parts) + bottom


def pages() -> dict[str, str]:
    """The roff source of the manual page of each program, by its name."""
    return {
        "passt": ".so man1/pasta-py.1\n",
        "pasta": ".so man1/pasta-py.1\n",
        "pasta-py": pasta_py_page.page(),
        "pesto": _page("PESTO", _PESTO_TOP, pesto.TABLE, _PESTO_BOTTOM),
        "slirp4netns": _page("SLIRP4NETNS", _SLIRP_TOP, slirp4netns.TABLE, _SLIRP_BOTTOM),
    }


def main(argv: "Sequence[str]") -> int:
    from typing import Annotated

    import typer

    def manual(
        program: Annotated[str, typer.Argument(metavar="PROGRAM", show_default=False, help="Default: pasta-py.")] = "pasta-py",
        roff: Annotated[bool, typer.Option("--roff", help="Print the source of the page.")] = False,
    ) -> int:
        found = pages()
        if program not in found:
            raise UsageError(f"{program!r}: no program of this package: expected one of {', '.join(found)}")
        text = found["pasta-py"] if found[program].startswith(".so ") else found[program]
        if roff:
            show(text)
            return 0
        if not shutil.which("man"):
            raise HostError("there is no program 'man': install it (Debian: man-db), or use --help, or --roff for the source")
        return subprocess.run(["man", "-l", "-"], input=text, text=True, check=False).returncode

    return command.run("man", argv, manual, summary=_SUMMARY)


if __name__ == "__main__":
    for name, text in pages().items():
        Path(sys.argv[1], f"{name}.1").write_text(text)
