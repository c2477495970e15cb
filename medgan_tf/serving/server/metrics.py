"""What a server counts, for Prometheus.

No label takes a word of a caller, or a stranger could fill the memory with
words.
"""

from __future__ import annotations

import prometheus_client

UNKNOWN = "unknown"

REQUESTS = prometheus_client.Counter(
    "medgan_requests",
    "Requests by how they ended, in gRPC's words.",
    ["protocol", "signature", "status"],
)
SECONDS = prometheus_client.Histogram(
    "medgan_request_seconds",
    "From a request's last byte to its answer's first, waiting included.",
    ["protocol", "signature"],
    buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60),
)
SLICES = prometheus_client.Counter(
    "medgan_slices", "Slices translated.", ["signature"]
)
UNDER_WAY = prometheus_client.Gauge(
    "medgan_requests_under_way", "Requests that wait or are translated."
)


def count(protocol: str, signature: str, status: str) -> None:
    """Counts a request that has ended."""
    REQUESTS.labels(protocol, signature, status).inc()
