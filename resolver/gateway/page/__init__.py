"""The status page for browsers: what it shows, and its markup, style and script."""
