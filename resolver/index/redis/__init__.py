"""How the index talks to Redis: URLs, connections, batches and failures."""

from resolver.optional_packages import without_package

# For metrics of its own, which are off, redis-py imports the SDK of OpenTelemetry, and psutil with
# it, wherever they are installed: 2.5 MiB for each process.
with without_package("opentelemetry"):
    import redis.asyncio  # noqa: F401
