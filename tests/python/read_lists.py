"""Reads the symbol lists and their metrics as the existing Python routes do.

    read_lists.py [REDIS_URL]

The URL comes from the argument, else from REDIS_URL, else from CELERY_BROKER_URL. Prints an object with one member
per key of the contract: null for a key that does not exist, else

    value    what json.loads gives
    text     the raw text
    sha256   of the raw text in UTF-8
    ttl      seconds, -1 without expiry
    members  of a list: every distinct order of member names, normally one
    types    of a list: the Python types of each member
"""

import hashlib
import json
import os
import sys

import redis

MARKETS = ("spot", "futures")


def keys():
    for market in MARKETS:
        yield f"cache:symbols:{market}:v1"
        yield f"cache:symbols:{market}:last_good"
        yield f"metrics:{market}_symbols_cache:last_refresh_ts"
        yield f"metrics:cache_hit:symbols_{market}"
        yield f"metrics:cache_miss:symbols_{market}"
        yield f"metrics:warmup_{market}_symbols_cache:success"
        yield f"metrics:warmup_{market}_symbols_cache:error"


def describe(client, key):
    text = client.get(key)
    if text is None:
        return None
    value = json.loads(text)
    about = {
        "value": value,
        "text": text,
        "sha256": hashlib.sha256(text.encode("utf-8")).hexdigest(),
        "ttl": client.ttl(key),
    }
    if isinstance(value, list):
        orders, types = [], {}
        for symbol in value:
            if list(symbol) not in orders:
                orders.append(list(symbol))
            for member, content in symbol.items():
                types.setdefault(member, set()).add(type(content).__name__)
        about["members"] = orders
        about["types"] = {member: sorted(names) for member, names in types.items()}
    return about


def main():
    url = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("REDIS_URL") or os.environ["CELERY_BROKER_URL"]
    client = redis.Redis.from_url(url, decode_responses=True)
    print(json.dumps({key: describe(client, key) for key in keys()}))


if __name__ == "__main__":
    main()
