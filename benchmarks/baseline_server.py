"""The simplest server for the same job: an aiohttp handler that calls redis-py for each request.

``python -m benchmarks.baseline_server PORT REDIS_URL`` serves; `benchmarks.gateway` starts it.
"""

from __future__ import annotations

import sys

import redis.asyncio
from aiohttp import web


def main() -> None:
    client = redis.asyncio.Redis.from_url(sys.argv[2], decode_responses=True)

    async def redirect(request: web.Request) -> web.Response:
        image = request.match_info["id"]
        base_url: str | None = await client.get(image)  # type: ignore[assignment]
        if base_url is None:
            return web.Response(status=404)
        return web.Response(status=307, headers={"Location": f"{base_url}/v2/images/{image}"})

    app = web.Application()
    app.add_routes([web.get("/v2/images/{id}", redirect)])
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)


if __name__ == "__main__":
    main()
