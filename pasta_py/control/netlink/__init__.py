"""rtnetlink: what the host has, and what the guest is given."""
