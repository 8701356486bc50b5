"""What the contract's rule makes of a captured exchangeInfo body, computed independently of the Rust code.

    prepare.py spot|futures FILE

Prints {"text": the list as json.dumps writes it, "count": its length}.
"""

import json
import sys

QUOTE = "USDT"
POPULAR = {
    "spot": ["BTC", "ETH", "BNB", "SOL", "ADA", "AVAX", "DOT", "MATIC", "LINK", "UNI"],
    "futures": ["BTC", "ETH", "BNB", "SOL", "ADA", "AVAX", "DOT", "MATIC"],
}
MEMBERS = ("symbol", "baseAsset", "quoteAsset", "status")


def prepare(market, symbols):
    """The popular bases in the order of their list, equal ones in upstream order; then the others by symbol."""
    popular = POPULAR[market]
    tradable = [
        {member: symbol[member] for member in MEMBERS}
        for symbol in symbols
        if symbol["status"] == "TRADING" and symbol["quoteAsset"] == QUOTE
    ]
    first = [symbol for symbol in tradable if symbol["baseAsset"] in popular]
    first.sort(key=lambda symbol: popular.index(symbol["baseAsset"]))
    others = [symbol for symbol in tradable if symbol["baseAsset"] not in popular]
    others.sort(key=lambda symbol: symbol["symbol"])
    return first + others


def main():
    market, path = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        prepared = prepare(market, json.load(file)["symbols"])
    print(json.dumps({"text": json.dumps(prepared), "count": len(prepared)}))


if __name__ == "__main__":
    main()
