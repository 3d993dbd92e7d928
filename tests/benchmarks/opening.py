"""The opening minute: 2,000 clients retry until a sale opens, and then all come at once.

Most wait as long as ``Retry-After`` says; a quarter of them are impatient. A client that gets a
ticket asks for the next one, so that the rate can be compared with the usual one.
"""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Iterator

import psycopg
import uvloop

from tests.benchmarks.contenders import own_database, serving
from tests.benchmarks.workloads import PLENTY

CLIENTS, IMPATIENT, IMPATIENT_SECONDS = 2_000, 500, 0.2
# How long before the opening the clients begin, how long the sale is watched, and how long a load
# takes to reach its usual rate.
BEFORE_SECONDS, SALE_SECONDS, WARM_UP_SECONDS = 6, 4, 2
QUARTERS = SALE_SECONDS * 4

CREATE_EVENT = """
insert into events (name, date, total_tickets, sale_opens_at)
values (
    'event ' || gen_random_uuid(), '2030-01-01', %s,
    clock_timestamp() + make_interval(secs => %s)
)
returning id, sale_opens_at
"""
COUNT_BY_QUARTER = """
select floor(extract(epoch from created_at - %s) * 4)::integer as quarter, count(*)
from ticket_allocations
where event_id = %s
group by quarter
"""
FIRST_GRANT = """
select extract(epoch from min(created_at) - %s) * 1000 from ticket_allocations where event_id = %s
"""

Responses = Counter[str]


def opening() -> Iterator[tuple[str, ...]]:
    """Sell from the opening on, with two workers, after measuring the usual rate."""
    yield "seconds after the opening", "tickets a second", "of the usual"
    with own_database() as dsn, psycopg.connect(dsn, autocommit=True) as database:
        with serving("holdfast", dsn, {"WORKERS": 2}) as (url, _):
            sold, _ = _sell(database, url, 0)
            usual = sum(sold[n] for n in range(WARM_UP_SECONDS * 4, QUARTERS))
            usual_rate = usual / (SALE_SECONDS - WARM_UP_SECONDS)
            yield "usual", f"{usual_rate:,.0f}", "100%"
            sold, summary = _sell(database, url, BEFORE_SECONDS)
        for quarter in range(QUARTERS):
            rate = sold[quarter] * 4
            yield f"{quarter / 4:.2f}", f"{rate:,}", f"{rate / usual_rate:.0%}"
        yield "tickets before the opening", str(sum(sold[n] for n in sold if n < 0)), ""
        for name, value in summary:
            yield name, value, ""


def _sell(
    database: psycopg.Connection, url: str, seconds: int
) -> tuple[Counter[int], list[tuple[str, str]]]:
    """Sell an event that opens in some seconds.

    Returns:
        the tickets by the quarter of a second after the opening, by the clock of the database, and
        a summary of the sale.
    """
    ((event, opens_at),) = database.execute(CREATE_EVENT, [PLENTY, seconds]).fetchall()
    responses = uvloop.run(_send(url, str(event), seconds + SALE_SECONDS + 1))
    quarters = database.execute(COUNT_BY_QUARTER, [opens_at, event]).fetchall()
    ((first,),) = database.execute(FIRST_GRANT, [opens_at, event]).fetchall()
    summary = [(f"responses {name}", f"{n:,}") for name, n in sorted(responses.items())]
    return Counter(dict(quarters)), [("first grant after, ms", f"{first:.0f}"), *summary]


async def _send(url: str, event: str, seconds: float) -> Responses:
    """Let all clients buy, and return their responses by status and code."""
    responses: Responses = Counter()
    end = time.monotonic() + seconds
    await asyncio.gather(*(_buy(url, event, n, end, responses) for n in range(CLIENTS)))
    return responses


async def _buy(url: str, event: str, number: int, end: float, responses: Responses) -> None:
    """Send one reservation after another, and wait after each refusal."""
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps({"quantity": 1, "userFingerprint": f"buyer-{number}"})
    request = (
        f"POST /events/{event}/tickets HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()
    reader, writer = await asyncio.open_connection(host, int(port))
    while time.monotonic() < end:
        writer.write(request)
        header = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        content = await reader.readexactly(_number(header, "content-length"))
        status = int(header[9:12])
        if status == 201:
            responses["201"] += 1
            continue
        responses[f"{status} {json.loads(content)['code']}"] += 1
        is_impatient = number < IMPATIENT
        pause = IMPATIENT_SECONDS if is_impatient else _number(header, "retry-after")
        await asyncio.sleep(min(pause, max(0.0, end - time.monotonic())))
    writer.close()


def _number(header: str, name: str) -> int:
    found = re.search(rf"\r\n{name}: (\d+)", header)
    return int(found[1]) if found else 0
