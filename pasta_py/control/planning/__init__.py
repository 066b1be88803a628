"""From the host and the options to the plan. Pure, but `host` and `resolv_conf` also read what they describe."""
