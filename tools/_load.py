"""Asks a server as strangers would: at moments that it has no say in.

Arrivals are a Poisson process, and a request's time counts from the moment it
should have been sent, so that a server which stands still is seen to (the
"server" scenario of MLPerf's LoadGen, section "Coordinated omission" of Tene).
"""

import asyncio
import base64
import collections
import json
import pathlib
import random
import re
import struct
import time
from collections.abc import Callable, Coroutine

Ask = Callable[[], Coroutine]


async def closed(ask: Ask, clients: int, seconds: float) -> float:
    """Requests answered a second if each client asks again at once."""
    ends = time.perf_counter() + seconds

    async def client() -> int:
        done = 0
        while time.perf_counter() < ends:
            await ask()
            done += 1
        return done

    start = time.perf_counter()
    done = await asyncio.gather(*(client() for _ in range(clients)))
    return sum(done) / (time.perf_counter() - start)


async def poisson(
    ask: Ask, rate: float, seconds: float, seed: int = 0
) -> tuple[list[float], collections.Counter[str]]:
    """Seconds that each request took, in order, and how often what failed.

    Args:
      ask: raises an exception where it fails, whose words are counted.
      rate: requests a second.
      seconds: for which requests come.
      seed: of the moments.
    """
    rng = random.Random(seed)
    begin = time.perf_counter()
    tasks, due = [], 0.0
    failures = collections.Counter()

    async def one(due: float) -> float | None:
        try:
            await ask()
        except Exception as error:
            failures[str(error) or type(error).__name__] += 1
            return None
        return time.perf_counter() - begin - due

    while (due := due + rng.expovariate(rate)) < seconds:
        await asyncio.sleep(max(0.0, begin + due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(due)))
    found = await asyncio.gather(*tasks)
    return [each for each in found if each is not None], failures


def resident_mb(pid: int) -> float:
    """Memory that a process holds, in MB (10^6 bytes)."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) * 1024 / 1e6


def request(
    name: str, protocol: str, signature: str, inputs: dict
) -> tuple[str, bytes, dict[str, str]]:
    """Path, body and headers of a request for one slice.

    Args:
      name: of the model.
      protocol: "v1", or "v2" with raw arrays both ways.
      signature: its name.
      inputs: name -> array with a first axis of 1; float32, or bytes objects.
    """
    if protocol == "v1":
        row = {
            key: {"b64": base64.b64encode(array[0]).decode()}
            if array.dtype == object
            else array[0].tolist()
            for key, array in inputs.items()
        }
        body = {"signature_name": signature, "instances": [row]}
        return f"/v1/models/{name}:predict", json.dumps(body).encode(), {}
    raws = [
        struct.pack("<I", len(array[0])) + array[0]
        if array.dtype == object
        else array.tobytes()
        for array in inputs.values()
    ]
    head = json.dumps(
        {
            "parameters": {
                "signature_name": signature,
                "binary_data_output": True,
            },
            "inputs": [
                {
                    "name": key,
                    "shape": list(array.shape),
                    "datatype": "BYTES" if array.dtype == object else "FP32",
                    "parameters": {"binary_data_size": len(raw)},
                }
                for (key, array), raw in zip(inputs.items(), raws, strict=True)
            ],
        }
    ).encode()
    headers = {
        "Inference-Header-Content-Length": str(len(head)),
        "Content-Type": "application/octet-stream",
    }
    return f"/v2/models/{name}/infer", head + b"".join(raws), headers
