"""rtnetlink: what the host has, and what the guest gets."""
