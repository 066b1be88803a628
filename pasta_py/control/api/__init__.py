"""The Python API, which `pasta_py` exports (docs/api.md). Each network is the program itself, as a runtime would start it."""
