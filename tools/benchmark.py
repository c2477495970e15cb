"""Times training, inference, data and serving, beside another program.

Prints one JSON line per case: median, least and most over the rounds, with
hardware, versions and settings. Each case runs in a process of its own. With
--peer the other program runs in turn with ours; it must print a JSON line
with `median_s`.

Examples:
  benchmark.py --suite=step --methods=medgan_1g --precisions=float32
  benchmark.py --suite=inference --u_blocks=6 --batch_sizes=1 \\
      --peer='python peer.py --mode infer --u_blocks 6'
  benchmark.py --suite=serving --model=models/mr_ct --seconds=300
"""

from __future__ import annotations

import json
import os
import pathlib
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

from absl import flags

from medgan_tf import errors, methods, tasks
from medgan_tf.tools import _run

# Signature and protocol.
_REQUESTS = (
    "serving_default:v1",
    "serving_default:v2",
    "serve_png_bytes:v1",
    "serve_png_bytes:v2",
    "serve_examples:v1",
)
_SUITES = ("step", "inference", "data", "memory", "serving")
_SUITE = flags.DEFINE_enum("suite", "step", _SUITES, "What to time.")
_METHODS = flags.DEFINE_list(
    "methods", ["medgan_1g", "pix2pix", "pix2pix_tf"], "Rows for step, memory."
)
_SET = flags.DEFINE_multi_string(
    "set", [], "field=value changes a field of each method, as in train.py."
)
_U_BLOCKS = flags.DEFINE_list(
    "u_blocks", ["1"], "U-blocks of the generator; each is a case."
)
_PRECISIONS = flags.DEFINE_list(
    "precisions", ["auto"], "As --precision of train.py; each is a case."
)
_BATCH_SIZES = flags.DEFINE_list(
    "batch_sizes",
    None,
    "Slices at a time; each is a case (default: 1; inference: 1, 4, 16).",
)
_XLA = flags.DEFINE_enum(
    "xla", "auto", ["auto", "on", "off"], "Compile as a whole."
)
_RECOMPUTE = flags.DEFINE_boolean("recompute", False, "As in train.py.")
_ACCUMULATE = flags.DEFINE_integer("accumulate", 1, "As in train.py.", 1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed calls in a round.", 1)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 1, "Processes for each case, in turn with the peer's.", 1
)
_NUM_PHANTOMS = flags.DEFINE_integer(
    "num_phantoms", 8, "Built-in patients that are prepared for data.", 1
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Records that are read for data (default: three built-in patients).",
)
_MODEL = flags.DEFINE_string(
    "model",
    None,
    "Folder of export.py for serving (default: random weights, see --set).",
)
_ASKED = flags.DEFINE_list(
    "requests",
    list(_REQUESTS),
    "Signatures and protocols that are asked for serving.",
)
_SECONDS = flags.DEFINE_float(
    "seconds", 60.0, "How long each of --requests is asked.", 1.0
)
_SLICES = flags.DEFINE_integer(
    "slices", 200, "Of the volume that predict.py translates for serving.", 1
)
_PEER = flags.DEFINE_string("peer", None, "Command of another program.")
_OUTPUT = flags.DEFINE_string("output", None, "File to add the lines to.")
_CASE = flags.DEFINE_string("case", None, "Used by the script itself.")

_WARM_UP = 2


def main(_: list[str]) -> None:
    if _CASE.value:
        _run.import_tensorflow()
        case = json.loads(_CASE.value)
        print(json.dumps(_MEASURE[case["suite"]](case)))
        return
    for case in _cases():
        ours, peers = [], []
        for _ in range(_ROUNDS.value):
            script = [sys.executable, "-m", "medgan_tf.tools.benchmark"]
            ours.append(_measured([*script, f"--case={json.dumps(case)}"]))
            if _PEER.value:
                peers.append(_measured(shlex.split(_PEER.value)))
        line = json.dumps(_summary(case, ours, peers))
        print(line, flush=True)
        if _OUTPUT.value:
            with open(_OUTPUT.value, "a", encoding="utf-8") as file:
                file.write(line + "\n")


def _cases() -> list[dict]:
    """What one process measures, for each case."""
    suite = _SUITE.value
    if suite == "data":
        return [
            {
                "suite": suite,
                "part": "preparation",
                "num_phantoms": _NUM_PHANTOMS.value,
            },
            {"suite": suite, "part": "stream", "data_dir": _DATA_DIR.value},
        ]
    if suite == "serving":
        return _serving_cases()
    sizes = ["1", "4", "16"] if suite == "inference" else ["1"]
    try:
        return [
            {
                "suite": suite,
                "method": name,
                # Told here, before a process is started for it.
                "set": _checked(name, n),
                "precision": precision,
                "xla": _XLA.value,
                "recompute": _RECOMPUTE.value,
                "accumulate": _ACCUMULATE.value,
                "batch_size": int(size),
                "repeats": _REPEATS.value,
            }
            for name in (["medgan"] if suite == "inference" else _METHODS.value)
            for n in _U_BLOCKS.value
            for precision in _PRECISIONS.value
            for size in (_BATCH_SIZES.value or sizes)
        ]
    except (KeyError, ValueError) as error:
        raise errors.UsageError(
            f"{error} cannot be used; expected --methods among "
            f"{', '.join(methods.METHODS)}, and whole numbers."
        ) from error


def _serving_cases() -> list[dict]:
    try:
        (num_u_blocks,) = _U_BLOCKS.value
        settings = _checked("medgan", num_u_blocks)
    except (KeyError, ValueError) as error:
        raise errors.UsageError(
            f"{error} cannot be used; expected one whole number for "
            "--u_blocks, and settings of medgan."
        ) from error
    unknown = set(_ASKED.value) - set(_REQUESTS)
    if unknown:
        raise errors.UsageError(
            f"--requests={','.join(sorted(unknown))}: expected some of "
            f"{', '.join(_REQUESTS)}."
        )
    common = {"suite": "serving", "model": _MODEL.value, "set": settings}
    return [
        *(
            {
                **common,
                "part": "load",
                "signature": signature,
                "protocol": protocol,
                "seconds": _SECONDS.value,
            }
            for signature, protocol in (r.split(":") for r in _ASKED.value)
        ),
        {**common, "part": "volume", "slices": _SLICES.value},
    ]


def _checked(name: str, num_u_blocks: str) -> list[str]:
    settings = [*_SET.value, f"num_u_blocks={num_u_blocks}"]
    methods.override(methods.METHODS[name], settings)
    return settings


def _measured(command: list[str]) -> dict:
    """The last JSON line that a program prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in reversed(done.stdout.splitlines()):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and "median_s" in found:
            return found
    raise errors.ResourceError(
        f"{command[0]} ended with {done.returncode} and printed no JSON line "
        "with median_s: "
        f"{(done.stderr.strip() or 'nothing on stderr').splitlines()[-1]}"
    )


def _summary(case: dict, ours: list[dict], peers: list[dict]) -> dict:
    # What the machine decided stands in place of what was asked.
    line = {**case, **ours[0]}
    seconds = [one["median_s"] for one in ours]
    line["median_s"] = statistics.median(seconds)
    line["least_s"] = min(one.get("least_s", one["median_s"]) for one in ours)
    line["most_s"] = max(one.get("most_s", one["median_s"]) for one in ours)
    if peers:
        theirs = [one["median_s"] for one in peers]
        line["peer"] = {**peers[0], "median_s": statistics.median(theirs)}
        line["ratio"] = line["median_s"] / line["peer"]["median_s"]
        line["ratios"] = [a / b for a, b in zip(seconds, theirs, strict=True)]
    return line


def _trainer(case: dict):
    from medgan_tf.training import runtime
    from medgan_tf.training import step as steps

    method = methods.override(methods.METHODS[case["method"]], case["set"])
    case["precision"] = runtime.precision(case["precision"])
    case["xla"] = runtime.uses_xla(case["xla"])
    case["winograd"] = runtime.uses_winograd(case["precision"], case["xla"])
    return steps.Trainer(
        method,
        precision=case["precision"],
        vgg_weights="random",
        xla=case["xla"],
        winograd=case["winograd"],
        recompute=case["recompute"],
        accumulate=case["accumulate"],
    )


def _images(case: dict):
    import tensorflow as tf

    shape = [case["batch_size"], 256, 256, 1]
    return [
        tf.random.stateless_uniform(shape, [0, i], -1.0, 1.0) for i in range(2)
    ]


def _measure_step(case: dict) -> dict:
    """Steps of Algorithm 1; the memory is the most that was held."""
    from medgan_tf.training import runtime

    trainer = _trainer(case)
    source, target = _images(case)

    def step():
        # Reading a number waits for the device.
        float(trainer.train_step(source, target)["generator_total"])

    start = time.perf_counter()
    step()
    first = time.perf_counter() - start
    found = _timed(step, case)
    peak = runtime.peak_memory_bytes()
    estimate = trainer.memory_bytes(case["batch_size"])
    return {
        **found,
        "first_step_s": first,
        "images_per_second": case["batch_size"] / found["median_s"],
        "peak_memory_gb": peak / 1e9,
        "estimated_memory_gb": estimate / 1e9,
    }


def _measure_inference(case: dict) -> dict:
    import tensorflow as tf

    from medgan_tf.training import runtime
    from medgan_tf.training import step as steps

    method = methods.override(methods.METHODS[case["method"]], case["set"])
    case["precision"] = runtime.precision(case["precision"])
    case["xla"] = runtime.uses_xla(case["xla"])
    generator = steps.build_generator(method, 1, 1, case["precision"])
    translate = tf.function(generator, jit_compile=case["xla"])
    source, _ = _images(case)
    found = _timed(lambda: translate(source).numpy(), case)
    return {**found, "ms_per_slice": 1e3 * found["median_s"] / len(source)}


def _measure_data(case: dict) -> dict:
    if case["part"] == "preparation":
        return _measure_preparation(case)
    return _measure_stream(case)


def _measure_preparation(case: dict) -> dict:
    """Built-in patients to records, by a process for each core."""
    from medgan_tf.data import prepare

    case["workers"] = len(os.sched_getaffinity(0))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        dataset = prepare.prepare_phantoms(
            tasks.TASKS["pet_ct"],
            case["num_phantoms"],
            pathlib.Path(folder) / "data",
            workers=case["workers"],
            start_worker=_run.start_worker,
        )
    seconds = time.perf_counter() - start
    num_slices = sum(map(dataset.num_slices, dataset.info["splits"]))
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        **case,
        "median_s": seconds,
        "slices_per_second": num_slices / seconds,
        "peak_memory_gb_of_a_worker": usage.ru_maxrss * 1024 / 1e9,
        **_machine(),
    }


def _measure_stream(case: dict) -> dict:
    """Records through jitter, without a network, as fast as they come."""
    from medgan_tf.data import pipeline, prepare, records

    with tempfile.TemporaryDirectory() as folder:
        if case["data_dir"]:
            dataset = records.open_dataset(case["data_dir"])
        else:
            dataset = prepare.prepare_phantoms(
                tasks.TASKS["pet_ct"], 3, pathlib.Path(folder) / "data"
            )
        batches = iter(pipeline.training_batches(dataset))
        # More than any buffer holds; the median of a wait says nothing then.
        case["repeats"] = 4 * pipeline.SHUFFLE_BLOCK
        found = _timed(lambda: next(batches)[0].numpy(), case)
    return {**found, "images_per_second": 1 / found["mean_s"]}


def _measure_serving(case: dict) -> dict:
    from medgan_tf.tools import _serving

    return {**case, **_serving.measure(case), **_machine()}


_MEASURE = {
    "step": _measure_step,
    "memory": _measure_step,
    "inference": _measure_inference,
    "data": _measure_data,
    "serving": _measure_serving,
}


def _timed(call, case: dict) -> dict:
    """Median, least and most seconds of a call, and what it ran on."""
    for _ in range(_WARM_UP):
        call()
    seconds = []
    for _ in range(case["repeats"]):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return {
        **case,
        "median_s": statistics.median(seconds),
        "mean_s": statistics.mean(seconds),
        "least_s": min(seconds),
        "most_s": max(seconds),
        **_machine(),
    }


def _machine() -> dict:
    import keras
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    names = [
        tf.config.experimental.get_device_details(gpu)["device_name"]
        for gpu in gpus
    ]
    return {
        "device": ", ".join(names) or _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    """Its name, and which of the instructions that matter it has."""
    facts = {}
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    has = facts.get("flags", "").split()
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    units = " ".join(unit for unit in wanted if unit in has)
    return f"{facts.get('model name', platform.machine())} ({units})"


def run() -> None:
    _run.run(main)


if __name__ == "__main__":
    run()
