"""The benchmark runs each case in a process, and a peer in turn with it."""

import json
import subprocess
import sys

import pytest

PEER = "import json; print('noise'); print(json.dumps({'median_s': 2.0}))"


def benchmark(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "medgan_tf.tools.benchmark", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_inference_is_timed_beside_a_peer(tmp_path):
    output = tmp_path / "lines.jsonl"
    done = benchmark(
        *("--suite=inference", "--set=ngf=1", "--batch_sizes=2"),
        *("--precisions=float32", "--repeats=2", "--rounds=2"),
        *(f"--peer={sys.executable} -c {json.dumps(PEER)}",),
        f"--output={output}",
    )
    assert done.returncode == 0, done.stderr
    assert output.read_text() == done.stdout
    line = json.loads(done.stdout)
    assert line["batch_size"] == 2
    assert 0 < line["least_s"] <= line["median_s"] <= line["most_s"]
    assert line["peer"]["median_s"] == 2.0
    assert line["ratio"] == line["median_s"] / 2.0
    assert len(line["ratios"]) == 2
    assert line["cores"] >= 1
    assert line["tensorflow"]


@pytest.mark.slow
def test_a_step_is_timed_with_its_memory():
    done = benchmark(
        *("--suite=memory", "--methods=pix2pix", "--repeats=1"),
        *("--set=ngf=1", "--set=ndf=1"),
    )
    assert done.returncode == 0, done.stderr
    (line,) = [json.loads(line) for line in done.stdout.splitlines()]
    # Nearly all of it is TensorFlow itself.
    assert line["peak_memory_gb"] == pytest.approx(
        line["estimated_memory_gb"], rel=0.3
    )
    assert line["precision"] in ("float32", "mixed_bfloat16")


@pytest.mark.slow
def test_preparing_and_reading_are_timed(write_records, tmp_path):
    write_records(tmp_path / "data", ("train",))
    done = benchmark(
        "--suite=data", "--num_phantoms=1", f"--data_dir={tmp_path / 'data'}"
    )
    assert done.returncode == 0, done.stderr
    made, read = [json.loads(line) for line in done.stdout.splitlines()]
    assert made["slices_per_second"] > 1
    assert 0.1 < made["peak_memory_gb_of_a_worker"] < 4
    assert read["images_per_second"] > 10


@pytest.mark.slow
def test_serving_is_asked_at_moments_of_its_own():
    pytest.importorskip("kserve", reason="medgan_tf[serve] is not installed")
    done = benchmark(
        *("--suite=serving", "--set=ngf=1", "--seconds=1", "--slices=4"),
        "--requests=serve_png_bytes:v2",
    )
    assert done.returncode == 0, done.stderr
    asked, volume = [json.loads(line) for line in done.stdout.splitlines()]
    assert (asked["signature"], asked["protocol"]) == ("serve_png_bytes", "v2")
    assert asked["errors"] == 0
    assert asked["requests"] > 0
    assert 0 < asked["least_s"] <= asked["median_s"] <= asked["p99_s"]
    assert asked["requests_per_s"] == pytest.approx(
        0.7 * asked["capacity_per_s"]
    )
    assert asked["memory_mb"] > 100
    assert volume["slices"] == 4
    assert volume["median_s"] > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--methods=gan"], "'gan' cannot be used"),
        (["--u_blocks=0"], "num_u_blocks must be at least 1"),
        (["--u_blocks=x"], "num_u_blocks"),
        (["--batch_sizes=x"], "'x' cannot be used"),
        (["--suite=serving", "--u_blocks=1,2"], "--u_blocks"),
        (["--suite=serving", "--requests=gan:v1"], "gan:v1: expected some of"),
    ],
)
def test_a_case_that_cannot_be_is_told_before_any_is_timed(arguments, words):
    done = benchmark(*arguments)
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
