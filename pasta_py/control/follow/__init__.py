"""Following the host while the guest runs: what changes, when it counts, and what the guest then gets."""
