"""Bytes and sockets: accepting connections, the fast path, TLS, worker processes."""
