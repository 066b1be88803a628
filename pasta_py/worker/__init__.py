"""The worker: a bare interpreter and the extension, locked in, with nothing else imported."""
