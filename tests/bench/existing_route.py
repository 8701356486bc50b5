"""The route that the endpoint replaces: it reads Redis, counts, and returns the parsed list."""

import json
import os

import redis.asyncio as redis
from fastapi import FastAPI

app = FastAPI()
cache = redis.from_url(os.environ["REDIS_URL"], decode_responses=True)


@app.get("/api/v1/symbols/spot")
async def spot():
    symbols = json.loads(await cache.get("cache:symbols:spot:v1"))
    await cache.incrby("metrics:cache_hit:symbols_spot", 1)
    return symbols
