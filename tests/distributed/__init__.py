"""Redis Cluster and Sentinel while they change, and several indexers on one Redis."""
