"""User-mode networking for rootless containers.

Kept empty but for the version: the worker process imports this package and must stay small.
"""

__version__ = "0.1.0"
