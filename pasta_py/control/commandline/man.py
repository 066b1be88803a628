"""The manual page pasta-py(1), from the option table. subcommands/man.py writes it, beside the other programs'."""

from pasta_py import __version__
from pasta_py.control.commandline import option_table

_TOP = r"""\" Made by pasta_py/control/commandline/man.py. Change the option table, then make it again.
.TH PASTA\-PY 1 "" "pasta\-py @VERSION@" "User Commands"
.SH NAME
pasta\-py, pasta, passt \- user\-mode networking for network namespaces and rootless containers
.SH SYNOPSIS
.B pasta\-py
.RI [ OPTION ]...
.RI [ COMMAND
.RI [ ARG ]...]
.br
.B pasta\-py
.RI [ OPTION ]...
.I PID
.br
.B pasta\-py
.RI [ OPTION ]...
.B \-\-netns
.IR PATH | NAME
.br
.B passt
.RI [ OPTION ]...
.SH DESCRIPTION
Connects a network namespace to the host's network, without privileges: frames of a tap interface in the namespace
become ordinary sockets on the host.
.PP
With a command, or with no argument at all, new user, network, IPC, PID, UTS and mount namespaces are made, and the
command or a login shell runs there, with its exit status passed on. With a PID or
.B \-\-netns
an existing namespace is joined, and the program goes to the background once everything is ready.
.PP
Started as
.BR pasta ,
it configures the interface only with
.BR \-\-config\-net ;
started as
.BR pasta\-py ,
it does so by itself.
.PP
.B passt
does the same for a virtual machine, which connects to a UNIX socket. It forwards no ports by itself, tells nameservers and search
domains, and has none of the options about namespaces. The options of the last section are its own.
.SH OPTIONS
Long options may be shortened as long as they stay unambiguous. Options end at the first argument that is none, or at
.BR \-\- .
The last value wins, unless an option may be given once per family (IPv4, IPv6) or repeated.
"""

_SUBCOMMANDS = r""".SH SUBCOMMANDS
These are the first word of pasta\-py, and of no other name of the program. Behind an option or
.B \-\-
the same word is a command. Each has its own
.BR \-\-help .
"""

_BOTTOM = r""".SH PORT SPECIFICATIONS
.nf
SPEC  := none | [LADDR/]CHUNK{,CHUNK}
LADDR := ADDR[%IF] | [*][%IF]
CHUNK := all[:ADDR] | auto | ~R | R[:R' | :ADDR | :ADDR/R']
R     := N[\-M]
.fi
.PP
The options for ports may be repeated. Ports are listed, or excluded with
.BR ~ ;
an exclusion always wins. Without a listed port, all ports but the excluded and the ephemeral ones are meant; those that
cannot be bound are left out.
.B auto
binds a port only while something listens on the other side. A range may become another one of the same length, on a
target address of the listening address's own family. Brackets round an address are optional, except where
an IPv6 target would read as the listening address. The options for the namespace's own connections take no listening
address.
.SH NOTES
The guest has the addresses and routes of the host's outbound interface, and appears to the world as the host. Its default
gateway's address means the host's loopback, unless
.BR \-\-map\-host\-loopback " or " \-\-no\-map\-gw
says otherwise.
A service in the guest sees a client's own address and port. A client at an address that the guest has too appears as the gateway,
one on the host's loopback as the guest's own address.
.PP
Where the guest reaches none of the host's nameservers, because they are at a loopback address or at the one that host and
guest share, pasta\-py forwards port 53 of 169.254.1.1 to the first of them, and of its link\-local address
where the guest has IPv6 alone or asks for advertisements. A command then reads in
.I /etc/resolv.conf
what the host's says, with that address as the nameserver. The file is the command's own, mounted over the host's, and follows
what the host does with its own; a file that is missing is not made. pasta leaves it alone.
.PP
A namespace that was joined is watched: when its path is unlinked, or the process it was found by has ended, the program
quits. It also quits on SIGTERM and SIGQUIT; in the background it ignores SIGINT and SIGHUP.
.SH ENVIRONMENT
.TP
.B SHELL
What is run where no command is given.
.TP
.BR LISTEN_FDS ", " LISTEN_PID ", " LISTEN_FDNAMES
Sockets of systemd's socket units, which are forwarded like those of
.BR \-t " and " \-u :
to the port that the socket's name ends in, or the one it is bound to.
.TP
.BR NO_COLOR ", " FORCE_COLOR
Errors of pasta\-py have colour on a terminal; one of these switches it off or on everywhere.
.TP
.B XDG_RUNTIME_DIR
Where the control sockets of a user's instances are.
.SH FILES
.TP
.IR $XDG_RUNTIME_DIR/pasta\-py/ PID .sock
The control socket of an instance, for the subcommands; as root
.IR /run/pasta\-py/ PID .sock .
.TP
.I /run/netns
Where
.B \-\-netns
looks for a name.
.TP
.I /etc/resolv.conf
Nameservers and search domains for the guest, read at the start, and for a command's own file whenever it changes.
.TP
.I /dev/net/tun
The user must be able to open it.
.SH EXIT STATUS
.TP
.B 0
Success: in the background and ready, the namespace has gone, or SIGTERM or SIGQUIT was received.
.TP
.B 1
Something was refused; one line on standard error says what, why, and what to do.
.TP
.BR 126 ", " 127
Of pasta\-py: the command cannot be executed, or does not exist. pasta ends with 1 then.
.TP
.I other
That of the command; 128+N if signal N ended it.
.SH EXAMPLES
.TP
.B pasta\-py \-\-pcap out.pcap \-\- curl \-s https://example.org
Run a command in a namespace of its own and keep all its frames.
.TP
.B pasta\-py \-\-allow 'example.org:443' \-\- curl \-s https://example.org
Let it reach nothing but this.
.TP
.B pasta\-py \-t 8080:80 \-\- python3 \-m http.server 80
Forward port 8080 of the host to port 80 of the command.
.TP
.B pasta\-py 12345
Join the namespaces of process 12345.
.TP
.B pasta\-py \-\-network=pasta:\-\-map\-gw,\-t,0.0.0.0%eth0/8080 \-\- sh
Options as a container runtime passes them.
.SH SEE ALSO
.BR podman\-run (1),
.BR network_namespaces (7),
.BR user_namespaces (7)
"""


def roff(text: str) -> str:
    """Plain text as roff: backslashes, hyphens, and control characters at the start of a line."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + escaped if escaped[:1] in (".", "'") else escaped


def _entry(option: option_table.Option) -> str:
    names = ", ".join(f"\\fB{roff(name)}\\fR" for name in option.names.split(", "))
    value = f" \\fI{roff(option.metavar)}\\fR" if option.metavar else ""
    return f".TP\n{names}{value}\n{roff(option.help)}\n"


def page() -> str:
    """The whole page as roff source."""
    parts = ["." + _TOP.replace("@VERSION@", roff(__version__))]
    for section in option_table.SECTIONS:
        parts.append(f".SS {roff(section)}\n")
        parts += [_entry(option) for option in option_table.TABLE if option.section == section]
    if option_table.SUBCOMMANDS:
        parts.append(_SUBCOMMANDS)
    for word, (_module, text) in option_table.SUBCOMMANDS.items():
        parts.append(f".TP\n\\fBpasta\\-py {roff(word)}\\fR\n{roff(text)}\n")
    return "".join(parts) + _BOTTOM
