"""How the index talks to Redis."""
