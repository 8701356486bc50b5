"""Draws random crontabs and instants, and says when Celery's own `crontab` makes each due next.

    crontab_due.py SEED COUNT

Prints a list of [line, zone, instant, due]: `line` in the order of `crontab.from_string`, both times in microseconds since
1970; `due` is null where Celery refuses the expression.
"""

import datetime
import json
import random
import sys
import zoneinfo

from celery import Celery
from celery.schedules import ParseException, crontab
from celery.utils.time import remaining

UTC = datetime.timezone.utc
ZONES = ("UTC", "Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata")
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=UTC)
NAMES = {
    "day_of_week": ("sun", "Monday", "tue", "WED", "thursday", "fri", "sat"),
    "month_of_year": ("jan", "February", "mar", "APR", "may", "june", "jul", "aug", "sep", "oct", "nov", "december"),
}


def number(rng, field, first, last):
    # Now and then one that is out of range; a negative one behind a name Celery would not read at all.
    value = rng.randint(first, last) if rng.random() < 0.99 else rng.choice((max(first - 1, 0), last + 1))
    names = NAMES.get(field)
    if names and first <= value <= last and rng.random() < 0.3:
        return names[value - first]
    return str(value)


def part(rng, field, first, last):
    kind = rng.random()
    if kind < 0.4:
        return number(rng, field, first, last)
    if kind < 0.6:
        return f"{number(rng, field, first, last)}-{number(rng, field, first, last)}"
    if kind < 0.75:
        return f"{number(rng, field, first, last)}-{number(rng, field, first, last)}/{rng.randint(1, 9)}"
    if kind < 0.97:
        return f"*/{rng.randint(1, last)}"
    return rng.choice(("*", "", "*/", "*/0", "x", "3/2", "1-", "-1"))


def text(rng, field, first, last, star):
    if rng.random() < star:
        return "*"
    return ",".join(part(rng, field, first, last) for _ in range(rng.choice((1, 1, 1, 2, 3))))


def draw(rng):
    return " ".join(
        text(rng, field, first, last, star)
        for field, first, last, star in (
            ("minute", 0, 59, 0.2),
            ("hour", 0, 23, 0.4),
            ("day_of_month", 1, 31, 0.6),
            ("month_of_year", 1, 12, 0.7),
            ("day_of_week", 0, 6, 0.6),
        )
    )


def due(apps, line, zone, instant):
    minute, hour, day_of_month, month_of_year, day_of_week = line.split(" ")
    try:
        schedule = crontab(minute, hour, day_of_week, day_of_month, month_of_year, app=apps[zone])
    except (ParseException, ValueError):
        return None
    last = instant.astimezone(zoneinfo.ZoneInfo(zone))
    schedule.nowfun = lambda: last
    try:
        left = remaining(*schedule.remaining_delta(last))
    except RuntimeError:  # "unable to rollover": there is no such date
        return None
    return (instant + left - EPOCH) // datetime.timedelta(microseconds=1)


def change_days(zone):
    """The days of ten years in the course of which a zone's clocks change."""
    days = [datetime.datetime(2020, 1, 1, tzinfo=UTC) + datetime.timedelta(days=day) for day in range(3650)]
    offset = [day.astimezone(zoneinfo.ZoneInfo(zone)).utcoffset() for day in days]
    return [day for day, before, after in zip(days, offset, offset[1:]) if before != after]


def main():
    seed, count = int(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(seed)
    apps = {}
    for zone in ZONES:
        apps[zone] = Celery(zone, set_as_current=False)
        apps[zone].conf.timezone = zone
    changes = {zone: change_days(zone) for zone in ZONES}
    cases = []
    for _ in range(count):
        line, zone = draw(rng), rng.choice(ZONES)
        instant = EPOCH + datetime.timedelta(microseconds=rng.randrange(1_577_836_800_000_000, 1_893_456_000_000_000))
        if changes[zone] and rng.random() < 0.3:
            hours = rng.uniform(-30, 30)
            instant = rng.choice(changes[zone]) + datetime.timedelta(hours=hours)
        micros = (instant - EPOCH) // datetime.timedelta(microseconds=1)
        cases.append([line, zone, micros, due(apps, line, zone, instant)])
    json.dump(cases, sys.stdout)


main()
