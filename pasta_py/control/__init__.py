"""The control process: from options to a running worker. Never imported by the worker."""
