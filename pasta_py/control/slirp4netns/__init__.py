"""The program slirp4netns, on the same engine."""
