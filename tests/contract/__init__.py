"""What the index promises. The whole suite runs on the embedded server and on a real Redis."""
