"""convert_lpips.py makes a weights file of the official ones only.

PyTorch is replaced by a stand-in that reads .npz, so that everything but
`torch.load` runs here; where the real one is present, it is used as well.
"""

import ast
import hashlib
import importlib.util
import json
import os
import pathlib
import runpy
import subprocess
import sys

import numpy as np
import pytest

from medgan_tf.evaluation import lpips

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "convert_lpips.py"
MAKER = runpy.run_path(str(ROOT / "tests" / "golden" / "make_lpips.py"))
# Runs the script with other official files than the real ones.
WITH_OTHER_FILES = """
import json, sys
from medgan_tf.tools import convert_lpips
convert_lpips.OFFICIAL = json.loads(sys.argv.pop(1))
sys.argv[0] = "convert_lpips.py"
convert_lpips.run()
"""
STAND_IN = """
import numpy
class Tensor:
    def __init__(self, array):
        self.array = array
    def detach(self):
        return self
    def numpy(self):
        return self.array
def load(path, map_location, weights_only):
    assert (map_location, weights_only) == ("cpu", True)
    try:
        with numpy.load(path) as arrays:
            return {name: Tensor(a) for name, a in arrays.items()}
    except ValueError as error:
        raise RuntimeError("first line\\nsecond line") from error
"""


def official():
    """The script's table; read, because to run it would define its flags."""
    for statement in ast.parse(SCRIPT.read_text(encoding="utf-8")).body:
        if (
            isinstance(statement, ast.Assign)
            and statement.targets[0].id == "OFFICIAL"
        ):
            return ast.literal_eval(statement.value)


def heads():
    with np.load(ROOT / "tests" / "golden" / "lpips.npz") as stored:
        return {
            name.removeprefix("alex/"): stored[name]
            for name in stored.files
            if name.startswith("alex/lin")
        }


@pytest.fixture
def convert(tmp_path):
    """Converts the two files, declared official, in a process of its own."""
    paths = {name: tmp_path / f"{name}.pth" for name in ("backbone", "heads")}
    (tmp_path / "out").mkdir()

    def run(output="out/alex.npz", path=()):
        path = [*path, *filter(None, [os.environ.get("PYTHONPATH")])]
        declared = [
            (file.name, hashlib.sha256(file.read_bytes()).hexdigest())
            for file in paths.values()
        ]
        return subprocess.run(
            [
                sys.executable,
                "-c",
                WITH_OTHER_FILES,
                json.dumps({"alex": declared}),
                "--network=alex",
                *(f"--{name}={file}" for name, file in paths.items()),
                f"--output={output}",
            ],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))},
            capture_output=True,
            text=True,
            timeout=120,
        )

    run.paths = paths
    run.folder = tmp_path / "out"
    return run


@pytest.fixture
def stand_in(tmp_path):
    """A folder with a `torch` that reads .npz."""
    folder = tmp_path / "stand_in"
    folder.mkdir()
    (folder / "torch.py").write_text(STAND_IN)
    return folder


@pytest.fixture
def no_torch(tmp_path):
    """A folder with a `torch` that is not installed."""
    folder = tmp_path / "no_torch"
    folder.mkdir()
    (folder / "torch.py").write_text("raise ImportError('no torch')\n")
    return folder


def write_npz(paths):
    for name, state in (
        ("backbone", MAKER["random_backbone"]("alex", 3)),
        ("heads", heads()),
    ):
        with open(paths[name], "wb") as file:
            np.savez(file, **state)


def expect_the_packages_distances(folder):
    """The file made gives what the package gives for these weights."""
    model = lpips.load(folder / "alex.npz")
    pair = MAKER["pairs"]((40, 40))
    found = model.distance(*pair, data_range=(-1, 1))
    other = folder / "other.npz"
    backbone = MAKER["random_backbone"]("alex", 3)
    lpips.save(other, "alex", backbone, heads(), source="")
    expected = lpips.load(other).distance(*pair, data_range=(-1, 1))
    np.testing.assert_array_equal(found, expected)
    assert found[-1] > 0.01
    assert "backbone.pth SHA-256 " in model.source
    assert "heads.pth SHA-256 " in model.source


@pytest.mark.slow
def test_two_state_dicts_become_a_weights_file(convert, stand_in):
    write_npz(convert.paths)

    done = convert(path=[stand_in])

    assert done.returncode == 0, done.stderr
    assert done.stdout == "LPIPS (AlexNet, v0.1): out/alex.npz\n"
    expect_the_packages_distances(convert.folder)


@pytest.mark.slow
@pytest.mark.parametrize("is_zip", [True, False])
def test_files_written_by_pytorch_are_read(convert, is_zip):
    torch = pytest.importorskip("torch")
    for name, state in (
        ("backbone", MAKER["random_backbone"]("alex", 3)),
        ("heads", heads()),
    ):
        tensors = {key: torch.from_numpy(a) for key, a in state.items()}
        torch.save(
            tensors,
            convert.paths[name],
            # The official files are older than the zip format.
            _use_new_zipfile_serialization=is_zip,
        )

    done = convert()

    assert done.returncode == 0, done.stderr
    expect_the_packages_distances(convert.folder)


@pytest.mark.slow
def test_a_file_that_carries_code_is_refused(convert, tmp_path):
    torch = pytest.importorskip("torch")
    write_npz(convert.paths)
    trace = tmp_path / "trace"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(trace),)

    torch.save({"features.0.weight": Evil()}, convert.paths["backbone"])

    done = convert()

    expect_one_line(done, 5, "not a readable state dict")
    assert not trace.exists()
    assert list(convert.folder.iterdir()) == []


def expect_one_line(done, exit_code, words):
    assert done.returncode == exit_code, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("convert_lpips.py: ")
    assert words in done.stderr


def test_without_pytorch_it_says_what_to_install(convert, no_torch):
    write_npz(convert.paths)

    done = convert(path=[no_torch])

    expect_one_line(done, 6, "pip install torch")
    assert list(convert.folder.iterdir()) == []


def test_a_file_that_pytorch_cannot_read_is_told_in_a_line(convert, stand_in):
    write_npz(convert.paths)
    convert.paths["heads"].write_bytes(b"no weights")

    done = convert(path=[stand_in])

    expect_one_line(done, 5, "heads.pth is not a readable state dict (first")


@pytest.mark.slow
def test_a_state_dict_of_something_else_is_told_in_a_line(convert, stand_in):
    write_npz(convert.paths)
    convert.paths["heads"].write_bytes(convert.paths["backbone"].read_bytes())

    done = convert(path=[stand_in])

    expect_one_line(done, 5, "the state dict has no lin0.model.1.weight")
    assert list(convert.folder.iterdir()) == []


@pytest.mark.parametrize("output", ["out/alex", "no/alex.npz"])
def test_an_output_that_cannot_be_written_is_told_before_work(convert, output):
    write_npz(convert.paths)

    done = convert(output=output)

    expect_one_line(done, 1, f"got {output}")


@pytest.mark.parametrize("network", ["alex", "vgg"])
def test_a_file_that_is_not_the_official_one_is_refused(tmp_path, network):
    other = tmp_path / "other.pth"
    other.write_bytes(b"")
    names = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}

    done = subprocess.run(
        [
            sys.executable,
            SCRIPT,
            f"--network={network}",
            f"--backbone={other}",
            f"--heads={other}",
            f"--output={tmp_path / 'a.npz'}",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )

    # SHA-256 of nothing: e3b0c44298fc1c14...
    expect_one_line(done, 5, "found SHA-256 e3b0c44298fc1c14")
    assert names[network] in done.stderr


def test_a_file_that_is_not_there_is_told_in_a_line(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            SCRIPT,
            "--network=vgg",
            f"--backbone={tmp_path / 'vgg16.pth'}",
            f"--heads={tmp_path / 'vgg.pth'}",
            f"--output={tmp_path / 'vgg.npz'}",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )

    expect_one_line(done, 5, "vgg16.pth: no such file, expected vgg16-397923af")


def test_the_official_digests_begin_as_torchvision_names_its_files():
    for (name, digest), _ in official().values():
        assert name.removesuffix(".pth").rpartition("-")[2] == digest[:8]


def test_the_official_heads_are_those_of_the_package():
    package = importlib.util.find_spec("lpips")
    if package is None:
        pytest.skip("the lpips package is not installed")
    folder = pathlib.Path(package.origin).parent

    for _, (name, digest) in official().values():
        content = (folder.parent / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
