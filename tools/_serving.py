"""Measures serve.py under load, and predict.py from file to file.

The client runs on the machine of the server and takes its share of it.
"""

import asyncio
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import httpx
import nibabel as nib
import numpy as np
import scipy.ndimage
import tensorflow as tf

from medgan_tf import errors, methods, sealed, tasks
from medgan_tf.serving import predict, saved_model, signatures
from medgan_tf.serving.server import app
from medgan_tf.tools import _load
from medgan_tf.training import step as steps

# Share of the capacity that is asked for.
LOAD = 0.7


def measure(case: dict) -> dict:
    """Measures one case of the suite.

    Args:
      case: `part`, "load" or "volume", `model`, a folder of export.py or None
        for one with random weights and the settings of `set`; for a load
        `signature`, `protocol` and `seconds`, for a volume `slices`.

    Returns:
      `median_s` and what else was found.
    """
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        model = case["model"] or _random_model(case, folder / "medgan")
        if case["part"] == "volume":
            return _measure_volume(case, model, folder)
        return _measure_load(case, pathlib.Path(model))


def _random_model(case: dict, folder: pathlib.Path) -> pathlib.Path:
    """An export of PET to CT that was never trained."""
    method = methods.override(methods.METHODS["medgan"], case["set"])
    task = tasks.TASKS["pet_ct"]
    generator = steps.build_generator(method, 1, 1, "float32")
    version = folder / "1"
    version.mkdir(parents=True)
    info = {
        **saved_model.write(generator, task, 1, version, folder.name),
        "task_row": tasks.as_stored(task),
        "title": "random weights",
        "intended_use": "None: the weights are random.",
        "trained_on_simulated_images": False,
    }
    sealed.write(version / predict.INFO_FILE, info)
    return folder


def _measure_volume(
    case: dict, model: pathlib.Path, folder: pathlib.Path
) -> dict:
    """predict.py from file to file, its start included."""
    rng = np.random.default_rng(0)
    shape = (256, 256, case["slices"])
    path = folder / "source.nii.gz"
    nib.save(
        nib.Nifti1Image(rng.uniform(1, 20, shape).astype("f4"), np.eye(4)), path
    )
    script = [sys.executable, "-m", "medgan_tf.tools.predict"]
    start = time.perf_counter()
    done = subprocess.run(
        [*script, f"--model={model}", path, folder / "translated.nii.gz"],
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise errors.ResourceError(done.stderr.strip().splitlines()[-1])
    return {"median_s": seconds}


def _measure_load(case: dict, model: pathlib.Path) -> dict:
    """Open-loop arrivals at 70 % of what the server can do, client beside."""
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "medgan_tf.tools.serve"),
            *(f"--model={model}", "--port=0", "--grpc_port=0"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        for line in server.stdout:
            if line.startswith("Serving at"):
                break
        else:
            raise errors.ResourceError("serve.py did not start, see above.")
        url = line.split()[2].rstrip(",")
        found = asyncio.run(_ask_server(case, model, url, server.pid))
    finally:
        server.terminate()
        server.wait()
    return found


async def _ask_server(
    case: dict, model: pathlib.Path, url: str, pid: int
) -> dict:
    name, inputs = _slice_for(case, model)
    path, body, headers = _load.request(
        name, case["protocol"], case["signature"], inputs
    )
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=url, timeout=120, limits=limits
    ) as client:

        async def ask():
            answer = await client.post(path, content=body, headers=headers)
            if answer.is_error:
                raise errors.ResourceError(f"status {answer.status_code}")

        for _ in range(2):
            await ask()
        alone = 1 / await _load.closed(ask, 1, min(10, case["seconds"]))
        capacity = await _load.closed(ask, 4, min(10, case["seconds"]))
        before = _load.resident_mb(pid)
        rate = LOAD * capacity
        took, failures = await _load.poisson(ask, rate, case["seconds"])
        after = _load.resident_mb(pid)
    took.sort()
    if not took:
        raise errors.ResourceError("The server answered no request.")
    return {
        "median_s": statistics.median(took),
        "least_s": took[0],
        "most_s": took[-1],
        "p99_s": took[min(len(took) - 1, int(0.99 * len(took)))],
        "one_client_s": alone,
        "capacity_per_s": capacity,
        "requests_per_s": rate,
        "requests": len(took) + failures.total(),
        "errors": failures.total(),
        "failures": failures,
        "body_mb": len(body) / 1e6,
        "memory_mb": after,
        "memory_growth": after / before - 1,
    }


def _slice_for(case: dict, model: pathlib.Path) -> tuple[str, dict]:
    """The model's name, and a slice as the signature takes it."""
    name, version = app.name_and_version(model)
    folder = model if (model / "saved_model.pb").exists() else model / version
    info = sealed.read(folder / predict.INFO_FILE)
    task = tasks.from_stored(info["task_row"])
    channels = len(task.sources)
    rng = np.random.default_rng(0)
    # As smooth as an image, so that it compresses like one.
    noise = rng.uniform(0, 1, [256, 256, channels])
    source = scipy.ndimage.gaussian_filter(noise, [3, 3, 0])
    source = 10 * source + 0.01 * noise
    inputs = {
        key: tf.make_ndarray(tensor)
        for key, tensor in signatures.smallest_requests(task, channels)[
            case["signature"]
        ].items()
    }
    values = (source * 6000).astype(np.uint16)
    scale = np.full(len(predict.scaled_channels(task)), 10, np.float32)
    makers = {
        "source": lambda: source[None].astype(np.float32),
        "png_bytes": lambda: np.array(
            [
                tf.io.encode_png(values[..., c, None]).numpy()
                for c in range(channels)
            ],
            dtype=object,
        ).reshape(inputs["png_bytes"].shape),
        "examples": lambda: np.array(
            [signatures.example(source, scale).SerializeToString()],
            dtype=object,
        ),
    }
    return name, {
        key: makers[key]() if key in makers else array
        for key, array in inputs.items()
    }
