"""Forwarded ports: bound on the host, or taken from systemd."""
