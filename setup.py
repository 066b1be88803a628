"""Only what pyproject.toml cannot say: the extensions are built by csrc/build.py."""

from setuptools import setup

setup(cffi_modules=["csrc/build.py:ffibuilder", "csrc/build.py:calls"])
