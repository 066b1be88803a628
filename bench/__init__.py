"""Benchmarks: our translator, others, and none at all, taking turns in one run; see docs/performance.md."""
