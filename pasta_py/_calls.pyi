"""System calls, an extension made by csrc/build.py; only pasta_py.control.syscalls imports it."""

from typing import Any

ffi: Any
lib: Any
