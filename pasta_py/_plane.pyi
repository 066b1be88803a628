"""The extension, made by csrc/build.py; only pasta_py.worker.plane imports it."""

from typing import Any

ffi: Any
lib: Any
