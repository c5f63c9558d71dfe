"""How the index talks to Redis: URLs, connections, batches and failures."""
