source (status dirname)/pasta-py.fish
