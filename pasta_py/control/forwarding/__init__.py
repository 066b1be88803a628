"""Forwarded ports: bound on the host, or inherited from systemd."""
