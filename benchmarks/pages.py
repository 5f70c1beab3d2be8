"""What pages cost: processor time of the server for each request, one after the other on one connection.

    python benchmarks/pages.py [--repeats 5] [--requests 200]

`gateway serve` as a user runs it, with fifty devices. Beside the pages stands /healthz, an ASGI application of a few
lines: what the server itself takes. The server has one core, the load the other; requests do not run side by side, so
the rate is that of one browser, and the processor time what limits many.
"""

import argparse
import http.client
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from load import cpu_of
from product import Product, gateway

DEVICES = 50
WARM_UP = 20


class Page(NamedTuple):
    """A page, and whether it is asked for by somebody who is logged in."""

    path: str
    logged_in: bool
    what: str


PAGES = (
    Page("/healthz", False, "no Django"),
    Page("/favicon.ico", False, "a redirect, no query"),
    Page("/login/", False, "a form, no query"),
    Page("/login/", True, "a redirect, 2 queries: session and user"),
    Page("/devices/{device}/history?key=temperature&range=1h", True, "JSON, 5 queries"),
    Page("/devices/{device}/", True, "a device"),
    Page("/", True, "the dashboard, fifty devices"),
)


def measure(product: Product, page: Page, requests: int) -> tuple[float, float]:
    """Requests a second, and milliseconds of the server's processor time for each."""
    headers = {"Accept": "text/html"} | ({"Cookie": product.cookie} if page.logged_in else {})
    path = page.path.format(device=product.device_ids[0])
    connection = http.client.HTTPConnection("127.0.0.1", product.http_port)
    for number in range(WARM_UP + requests):
        if number == WARM_UP:
            began, cpu = time.perf_counter(), cpu_of(product.pid)
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        response.read()
        assert response.status < 400, (path, response.status)
    took, cpu = time.perf_counter() - began, cpu_of(product.pid) - cpu
    connection.close()
    return requests / took, cpu / requests * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--requests", type=int, default=200)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    with tempfile.TemporaryDirectory() as directory, gateway(Path(directory), DEVICES, cores[0]) as product:
        results: dict[Page, list[tuple[float, float]]] = {page: [] for page in PAGES}
        for _ in range(options.repeats):
            for page, runs in results.items():
                runs.append(measure(product, page, options.requests))
    print(f"load average {os.getloadavg()[0]:.1f}; medians, lowest and highest in brackets")
    for page, runs in results.items():
        rates, costs = zip(*runs, strict=True)
        print(
            f"  {page.path:<52} {statistics.median(costs):5.2f} ms ({min(costs):.2f} to {max(costs):.2f})"
            f" {statistics.median(rates):6,.0f}/s  {page.what}"
        )


if __name__ == "__main__":
    main()
