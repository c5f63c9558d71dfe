"""The HTTP side: handlers that parse, ask and render."""
