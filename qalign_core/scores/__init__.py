"""From answers to numbers: who answered what, how right it is, what it is worth, and where it comes from."""
