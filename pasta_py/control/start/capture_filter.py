"""Filters of captures: from tcpdump's language (pcap-filter(7)) to a program of classic BPF, by the machine's libpcap.

The program is data: the core checks it before it runs it (csrc/core/packet_filter.h). libpcap is loaded only for a filter, and only
here: the worker never sees it.
"""

import ctypes

from pasta_py.errors import HostError, UsageError

MAX_BYTES = 262144  # of a frame; PCAP_SNAPLEN_BYTES of csrc/io/pcap_format.h
_LIBRARIES = ("libpcap.so.0.8", "libpcap.so.1", "libpcap.so")  # Debian's name, that of others, that of a development package
_DLT_EN10MB = 1
_NETMASK_UNKNOWN = 0xFFFFFFFF  # pcap_compile(3PCAP)
_INSTRUCTION_BYTES = 8
_OPTIMIZE = 1


class _Program(ctypes.Structure):
    """struct bpf_program of pcap/bpf.h."""

    _fields_ = [("length", ctypes.c_uint), ("code", ctypes.c_void_p)]


def compiled(expression: str, option: str) -> bytes:
    """The instructions of the filter, 8 bytes each as in struct sock_filter; b"" for an expression that every frame matches.

    `option`: what the user gave it with, for the UsageError about an expression that is refused. HostError: there is no libpcap.
    """
    if not expression.strip():
        return b""
    library = _load(option)
    library.pcap_open_dead.restype = library.pcap_geterr.restype = ctypes.c_void_p
    handle = ctypes.c_void_p(library.pcap_open_dead(_DLT_EN10MB, MAX_BYTES))
    if not handle:
        raise HostError(f"{option}: libpcap has no memory: free some")
    program = _Program()
    try:
        text = expression.encode("utf-8", "surrogateescape")
        if library.pcap_compile(handle, ctypes.byref(program), text, _OPTIMIZE, _NETMASK_UNKNOWN):
            why = ctypes.string_at(library.pcap_geterr(handle)).decode("utf-8", "replace")
            raise UsageError(f"{option} {expression!r}: {why}: pcap-filter(7) has the language")
        return ctypes.string_at(program.code, program.length * _INSTRUCTION_BYTES)
    finally:
        if program.code:
            library.pcap_freecode(ctypes.byref(program))
        library.pcap_close(handle)


def _load(option: str) -> ctypes.CDLL:
    for name in _LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise HostError(f"{option}: filters need libpcap, which is not installed (package libpcap0.8 or libpcap): install it")
