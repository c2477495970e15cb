"""What a machine decides, told from descriptions of machines."""

import pytest
import tensorflow as tf

from medgan_tf import errors
from medgan_tf.training import runtime


@pytest.fixture
def machine(monkeypatch):
    """Pretends a processor's flags and the compute capability of GPUs."""

    def pretend(cpu_flags="", capabilities=()):
        monkeypatch.setattr(
            runtime.pathlib.Path,
            "read_text",
            lambda self: f"flags\t\t: fpu {cpu_flags} sse\n",
        )
        monkeypatch.setattr(
            tf.config, "list_physical_devices", lambda kind: [*capabilities]
        )
        monkeypatch.setattr(
            tf.config.experimental,
            "get_device_details",
            lambda gpu: {"compute_capability": gpu},
        )

    return pretend


@pytest.mark.parametrize(
    ("cpu_flags", "capabilities", "expected"),
    [
        ("avx2", [], "float32"),
        ("avx2 avx512f avx512_vnni", [], "float32"),
        ("avx2 avx512f avx512_bf16", [], "mixed_bfloat16"),
        ("amx_bf16 amx_tile", [], "mixed_bfloat16"),
        ("amx_bf16", [(6, 1)], "float32"),
        ("avx2", [(7, 5)], "mixed_float16"),
        ("avx2", [(8, 6)], "mixed_bfloat16"),
        ("avx2", [(9, 0), (7, 0)], "mixed_float16"),
        ("avx2", [(10, 0)], "mixed_bfloat16"),
    ],
)
def test_precision_is_what_the_weakest_device_is_fast_in(
    machine, cpu_flags, capabilities, expected
):
    machine(cpu_flags, capabilities)
    assert runtime.precision("auto") == expected
    assert runtime.precision("mixed_float16") == "mixed_float16"


@pytest.mark.parametrize(
    ("processor", "cpu_flags", "precision", "expected"),
    [
        ("x86_64", "avx2", "float32", True),
        ("x86_64", "avx512_bf16", "mixed_bfloat16", True),
        ("x86_64", "avx2", "mixed_bfloat16", False),
        ("x86_64", "avx512_bf16 amx_bf16", "mixed_bfloat16", False),
        ("x86_64", "avx512_bf16 amx_bf16", "float32", True),
        ("x86_64", "avx2", "mixed_float16", False),
        ("aarch64", "bf16", "float32", False),
    ],
)
def test_winograds_convolutions_are_used_where_they_were_measured(
    machine, monkeypatch, processor, cpu_flags, precision, expected
):
    machine(cpu_flags, [])
    monkeypatch.setattr(runtime.platform, "machine", lambda: processor)
    assert runtime.uses_winograd(precision, xla=False) is expected
    assert not runtime.uses_winograd(precision, xla=True)


def test_winograds_convolutions_are_not_used_on_a_gpu(machine):
    machine("avx2", [(8, 0)])
    assert not runtime.uses_winograd("float32", xla=False)


def test_a_cpu_without_onednn_computes_in_float32(machine, monkeypatch):
    machine("avx512_bf16", [])
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert runtime.precision("auto") == "float32"


@pytest.mark.parametrize(
    ("wanted", "capabilities", "expected"),
    [
        ("auto", [], False),
        ("auto", [(8, 0)], True),
        ("on", [], True),
        ("off", [(8, 0)], False),
    ],
)
def test_xla_is_for_gpus_unless_told(machine, wanted, capabilities, expected):
    machine(capabilities=capabilities)
    assert runtime.uses_xla(wanted) is expected


def test_alone_there_is_no_engine(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    for wanted in ("auto", "none"):
        strategy = runtime.strategy(wanted)
        assert strategy is tf.distribute.get_strategy()
        assert runtime.is_chief(strategy)


@pytest.mark.parametrize(
    ("batch_size", "is_shared"), [(1, False), (3, False), (2, True), (4, True)]
)
def test_several_gpus_are_used_where_they_divide_the_batch(
    machine, monkeypatch, batch_size, is_shared
):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    machine(capabilities=[(8, 0), (8, 0)])
    # Any device will do: what counts is that there is an engine.
    monkeypatch.setattr(
        tf.config,
        "list_logical_devices",
        lambda kind: [tf.config.LogicalDevice("/device:CPU:0", "CPU")],
    )
    strategy = runtime.strategy("auto", batch_size)
    is_mirrored = isinstance(strategy, tf.distribute.MirroredStrategy)
    assert is_mirrored is is_shared


def test_a_cluster_that_cannot_form_is_told_before_it_waits(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(errors.UsageError, match="TF_CONFIG, which is not set"):
        runtime.strategy("multiworker")
    monkeypatch.setenv("TF_CONFIG", "{}")
    with pytest.raises(errors.UsageError, match="field cluster is null"):
        runtime.strategy("auto")


def test_the_peak_of_memory_is_at_least_what_is_held():
    held = bytearray(50_000_000)
    assert runtime.peak_memory_bytes() > len(held)
