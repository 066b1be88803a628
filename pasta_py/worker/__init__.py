"""The worker: a bare interpreter with the C extension, locked in. It imports only what tests/test_layering.py allows."""
