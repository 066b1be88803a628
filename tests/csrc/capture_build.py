"""Builds the capture alone, from the sources of the extension: as a cffi module, and as a program with a C main."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import cffi
import counted

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ["core/packet_filter.c", "io/capture.c", "io/capture_files.c", "io/capture_names.c", "io/capture_packet.c"]
SOURCES += ["io/pcap_format.c", "io/sink.c", "wire/ends.c", "wire/offload.c", "base/checksum.c", "base/siphash.c"]

CDEF = """
struct capture;
struct iovec { void *iov_base; size_t iov_len; ...; };
enum capture_direction { CAPTURE_FROM_GUEST, CAPTURE_TO_GUEST };
struct capture_counters { uint64_t frames, bytes, dropped; };
struct packet_filter_insn { uint16_t code; uint8_t jt, jf; uint32_t k; };
struct capture_config {
    const int *fds; uint32_t files; uint64_t file_bytes; bool pcapng; uint32_t snaplen;
    const struct packet_filter_insn *filter; uint32_t filter_len; const struct capture_names *names;
};
struct addr { uint8_t b[16]; };
struct capture_names { ...; };
int capture_names_init(struct capture_names *n);
void capture_names_free(struct capture_names *n);
void capture_names_learn(struct capture_names *n, const struct addr *a, const char *text, uint32_t len);
bool packet_filter_check(const struct packet_filter_insn *code, uint32_t count);
uint32_t packet_filter_run(const struct packet_filter_insn *code, const struct iovec *iov, int iovcnt);
int capture_open(struct capture **out, const struct capture_config *config);
struct capture_offload { bool needs_csum; uint16_t csum_start, csum_offset, udp_size; };
void capture_frame(struct capture *c, enum capture_direction direction, const struct iovec *iov, int iovcnt,
                   const struct capture_offload *offload);
struct capture_counters capture_counters(const struct capture *c);
int capture_error(struct capture *c);
const char *capture_error_text(int error);
int capture_stop(struct capture *c, struct capture_counters *counters);
"""


def build_module() -> Any:
    """Returns the imported cffi module, with `ffi` and `lib`."""
    also = counted.build("capture")
    builder = cffi.FFI()
    builder.cdef(CDEF)
    builder.set_source(
        "_capture_alone",
        '#include "io/capture.h"',
        sources=[*(str(ROOT / "csrc" / source) for source in SOURCES), *also.sources],
        include_dirs=[str(ROOT / "csrc")],
        extra_compile_args=["-std=c11", "-D_GNU_SOURCE", *also.compile_args],
        extra_link_args=also.link_args,
    )
    return counted.load("_capture_alone", builder.compile(tmpdir=also.directory))


def build_stress(directory: Path, *flags: str) -> Path:
    """Compiles capture_stress.c with `flags` into `directory` and returns the program."""
    compiler = shutil.which("cc") or shutil.which("gcc") or "cc"
    program = directory / "capture_stress"
    sources = [str(ROOT / "csrc" / source) for source in SOURCES]
    subprocess.run(
        [compiler, "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-pthread", "-I", str(ROOT / "csrc")]
        + [*flags, *sources, str(Path(__file__).with_name("capture_stress.c")), "-o", str(program)],
        check=True,
        timeout=120,
    )
    return program
