"""What one would write first: an aiohttp handler with one call of redis-py a request.

``python -m benchmarks.plain PORT REDIS_URL`` serves; `benchmarks.gateway` starts it.
"""

from __future__ import annotations

import sys

import redis.asyncio
from aiohttp import web


def main() -> None:
    client = redis.asyncio.Redis.from_url(sys.argv[2], decode_responses=True)

    async def read(request: web.Request) -> web.Response:
        image = request.match_info["id"]
        base = await client.get(image)
        if base is None:
            return web.Response(status=404)
        return web.Response(status=307, headers={"Location": f"{base}/v2/images/{image}"})

    app = web.Application()
    app.add_routes([web.get("/v2/images/{id}", read)])
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)


if __name__ == "__main__":
    main()
