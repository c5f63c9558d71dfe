"""Several versions of the program on one Redis, each a process of its own."""
