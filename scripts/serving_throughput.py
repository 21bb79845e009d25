"""Pictures a second that a running server draws for so many clients at once.

    deepcache-trt serve --cores 1
    python scripts/serving_throughput.py http://127.0.0.1:8000 --clients 1 --clients 16

Plain diffusers behind the same server: `plain: true`, `cores: 1` and `policy: {policy: uncached}` among the arguments
of a file for `deepcache-trt serve --config`.
"""

import argparse
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import requests


def asked(url: str, number: int, until: float) -> list[float]:
    """What one client waited for each of its pictures, in seconds, one after the other."""
    waited = []
    while (begun := time.perf_counter()) < until:
        body = {"prompt": "a handwritten seven", "seed": 1000 * number + len(waited)}
        answer = requests.post(f"{url}/v1/generate", json=body, timeout=300)
        answer.raise_for_status()
        waited.append(time.perf_counter() - begun)
    return waited


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Pictures a second that a running server draws.")
    parser.add_argument("url", help="of the server")
    parser.add_argument("--clients", type=int, action="append", help="at once; repeatable")
    parser.add_argument("--seconds", type=float, default=15, help="for each number of clients")
    options = parser.parse_args()
    for clients in options.clients or [1, 16]:
        begun = time.perf_counter()
        with ThreadPoolExecutor(clients) as threads:
            running = [threads.submit(asked, options.url, i, begun + options.seconds) for i in range(clients)]
            found = [each.result() for each in running]
        waited = [each for own in found for each in own]
        rate = len(waited) / (time.perf_counter() - begun)
        print(f"{clients} clients: {rate:.2f} pictures a second, each waited for {statistics.median(waited):.2f} s")


if __name__ == "__main__":
    main()
