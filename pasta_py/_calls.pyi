"""System calls, an extension made by csrc/build.py; only pasta_py.control.guest.syscalls imports it."""

from typing import Any

ffi: Any
lib: Any
