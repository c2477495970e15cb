"""What the hardware decides: precision, XLA, Winograd, who works together.

Each function turns the word of a flag into what TensorFlow needs; "auto"
looks at the machine. Why these are the defaults: `docs/performance.md`.
"""

from __future__ import annotations

import os
import pathlib
import platform

import tensorflow as tf

from medgan_tf.training import cluster as clusters
from medgan_tf.training import forming

# From here on a GPU multiplies bfloat16 (Ampere), and float16 (Volta).
_BFLOAT16_CAPABILITY = (8, 0)
_FLOAT16_CAPABILITY = (7, 0)
# CPUs that multiply bfloat16; others convert it first, which is slower.
_BFLOAT16_CPU_FLAGS = {"amx_bf16", "avx512_bf16"}


def precision(wanted: str) -> str:
    """The Keras dtype policy for `--precision`.

    Args:
      wanted: "auto", or a policy, which is returned as it is.

    Returns:
      With "auto": "mixed_bfloat16" where every GPU, or without one the
      processor, has units for it; "mixed_float16" on older GPUs with units
      for that; else "float32".
    """
    if wanted != "auto":
        return wanted
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "mixed_bfloat16" if _has_bfloat16_cpu() else "float32"
    weakest = min(
        tf.config.experimental.get_device_details(gpu).get(
            "compute_capability", (0, 0)
        )
        for gpu in gpus
    )
    if weakest >= _BFLOAT16_CAPABILITY:
        return "mixed_bfloat16"
    return "mixed_float16" if weakest >= _FLOAT16_CAPABILITY else "float32"


def uses_xla(wanted: str) -> bool:
    """Whether the step is compiled as a whole, for `--xla`.

    Args:
      wanted: "on", "off" or "auto": on a GPU alone.
    """
    if wanted == "auto":
        return bool(tf.config.list_physical_devices("GPU"))
    return wanted == "on"


def uses_winograd(precision: str, xla: bool) -> bool:
    """Whether VGG-19's convolutions take fewer products, see `models.winograd`.

    Args:
      precision: the Keras dtype policy.
      xla: whether the step is compiled as a whole.

    Returns:
      True where it was measured to be faster: on processors x86-64, in
      bfloat16 only on those that multiply it, but without matrix units (AMX).
    """
    if xla or tf.config.list_physical_devices("GPU"):
        return False
    if platform.machine() != "x86_64":
        return False
    if precision == "mixed_bfloat16":
        return _has_bfloat16_cpu() and "amx_bf16" not in _cpu_flags()
    return precision == "float32"


def make_deterministic() -> None:
    """From here on equal operations give equal bits, for `--deterministic`.

    On the same hardware and versions. Must be called before anything is
    computed, and holds for the whole process.
    """
    tf.config.experimental.enable_op_determinism()
    # It would join sums of two to sums of many: see `fan_out`.
    tf.config.optimizer.set_experimental_options(
        {"arithmetic_optimization": False}
    )


def strategy(
    wanted: str, batch_size: int = 1, cluster_timeout_s: int = 300
) -> tf.distribute.Strategy:
    """The engine for `--distribute`; a trainer is made within its scope.

    Must be called before any tensor is made, because "multiworker" joins its
    cluster first.

    Args:
      wanted: "none"; "mirrored", all GPUs of this machine (without one, its
        logical CPUs); "multiworker", the cluster that the environment
        variable TF_CONFIG describes; "auto": the first that fits of
        multiworker, mirrored over several GPUs that divide the batch, none.
      batch_size: of a step; the paper's 1 leaves nothing to share.
      cluster_timeout_s: seconds to wait for the others of a cluster; after
        that the process ends, see `forming.limited`.

    Raises:
      errors.UsageError: multiworker without a TF_CONFIG that is sound.
      errors.ClusterError: the port of this process is taken.
    """
    if wanted == "auto":
        wanted = "none"
        num_gpus = len(tf.config.list_physical_devices("GPU"))
        if num_gpus > 1 and batch_size % num_gpus == 0:
            wanted = "mirrored"
        if clusters.VARIABLE in os.environ:
            wanted = "multiworker"
    if wanted == "none":
        return tf.distribute.get_strategy()
    if wanted == "mirrored":
        kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
        return tf.distribute.MirroredStrategy(
            [device.name for device in tf.config.list_logical_devices(kind)]
        )
    cluster = clusters.parse(os.environ.get(clusters.VARIABLE))
    with forming.limited(cluster, cluster_timeout_s):
        return tf.distribute.MultiWorkerMirroredStrategy()


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    has_chief = "chief" in resolver.cluster_spec().jobs
    first = "chief" if has_chief else "worker"
    return (resolver.task_type, resolver.task_id) == (first, 0)


def peak_memory_bytes() -> int:
    """The most memory held so far: of the GPUs, else of this process."""
    gpus = tf.config.list_logical_devices("GPU")
    if gpus:
        return sum(
            tf.config.experimental.get_memory_info(
                gpu.name.removeprefix("/device:")
            )["peak"]
            for gpu in gpus
        )
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/self/status has no VmHWM")


def _has_bfloat16_cpu() -> bool:
    # Without oneDNN, TensorFlow converts one number after another.
    is_off = os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0"
    return not (is_off or _BFLOAT16_CPU_FLAGS.isdisjoint(_cpu_flags()))


def _cpu_flags() -> set[str]:
    """What Linux says the processor can do; elsewhere nothing."""
    try:
        return set(pathlib.Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return set()
