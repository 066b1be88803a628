"""From the host and the options to everything that is then done. Pure, but for reading."""
