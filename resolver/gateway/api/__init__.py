"""HTTP handlers: each parses, asks and renders."""
