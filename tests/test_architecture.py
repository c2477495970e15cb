"""Imports go downhill: a module imports only from strictly lower floors.

FLOORS is the table. Imports are read with `ast`, so
nothing is run; each offence is told as file:line and the rule it breaks.
"""

import ast
import pathlib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]

FLOORS = {
    "allocator": 0,
    "data.tissue_tables": 0,
    "errors": 0,
    "evaluation.page": 0,
    "evaluation.plots": 0,
    "evaluation.published": 0,
    "json_files": 0,
    "methods": 0,
    "reader_study.agreement": 0,
    "reader_study.sessions": 0,
    "tasks": 0,
    "training.config": 0,
    "training.watch": 0,
    "data.volume": 1,
    "data.workers": 1,
    "evaluation.studies": 1,
    "ports": 1,
    "reader_study.storage": 1,
    "run_record": 1,
    "sealed": 1,
    "serving.server.metrics": 1,
    "serving.server.statuses": 1,
    "training.cluster": 1,
    "data.attenuation": 2,
    "data.dicom_slice": 2,
    "data.itk": 2,
    "data.manifest": 2,
    "data.mr_trajectories": 2,
    "data.nifti": 2,
    "data.phantom": 2,
    "data.preprocess": 2,
    "data.sample": 2,
    "data.split": 2,
    "data.stacks": 2,
    "data.suv": 2,
    "data.tomography": 2,
    "evaluation.metrics": 2,
    "evaluation.statistics": 2,
    "reader_study.study": 2,
    "serving.server.limits": 2,
    "serving.server.protocols": 2,
    "data.alignment": 3,
    "data.dicom": 3,
    "data.label_map": 3,
    "data.low_count_pet": 3,
    "data.mr_motion": 3,
    "data.prepare_beam": 3,
    "data.pseudonyms": 3,
    "data.thumbnails": 3,
    "evaluation.line_integrals": 3,
    "evaluation.masked": 3,
    "evaluation.regions": 3,
    "reader_study.application": 3,
    "reader_study.bootstrap": 3,
    "reader_study.readings": 3,
    "serving.server.desk": 3,
    "serving.server.protocol_v1": 3,
    "serving.server.protocol_v2": 3,
    "data.dicom_write": 4,
    "data.io": 4,
    "evaluation.protocols": 4,
    "reader_study.analysis": 4,
    "reader_study.server": 4,
    "serving.server.kserve_model": 4,
    "data.layouts": 5,
    "data.pairs": 5,
    "data.records": 5,
    "data.verify_values": 5,
    "evaluation.baselines": 5,
    "evaluation.compare": 5,
    "evaluation.elsewhere_files": 5,
    "evaluation.lpips": 5,
    "fan_out": 5,
    "losses.adversarial": 5,
    "models.layers": 5,
    "models.winograd": 5,
    "serving.derivative": 5,
    "serving.mumap": 5,
    "serving.predict": 5,
    "serving.server.grpc_service": 5,
    "serving.server.rest": 5,
    "serving.uploads": 5,
    "serving.warmup": 5,
    "training.adam": 5,
    "training.forming": 5,
    "training.peers": 5,
    "training.skips": 5,
    "training.summaries": 5,
    "evaluation.elsewhere": 6,
    "losses.pixel": 6,
    "models.convolutions": 6,
    "models.vgg19": 6,
    "reader_study.choice": 6,
    "serving.cohort": 6,
    "serving.fusion": 6,
    "serving.jobs": 6,
    "serving.server.app": 6,
    "training.runtime": 6,
    "data.pipeline": 7,
    "data.prepare": 7,
    "data.verify": 7,
    "losses.perceptual": 7,
    "losses.style": 7,
    "models.discriminator": 7,
    "models.u_block": 7,
    "serving.page": 7,
    "data.verify_cohort": 8,
    "evaluation.evaluate": 8,
    "losses.objective": 8,
    "models.casnet": 8,
    "data.verify_records": 9,
    "evaluation.examples": 9,
    "evaluation.report": 9,
    "reader_study.folders": 9,
    "serving.signatures": 9,
    "training.step": 9,
    "data.verify_report": 10,
    "evaluation.picture": 10,
    "evaluation.results": 10,
    "reader_study.reading_report": 10,
    "serving.model_card": 10,
    "serving.saved_model": 10,
    "serving.server.served": 10,
    "tools._load": 10,
    "tools._run": 10,
    "training.checkpoint": 10,
    "evaluation.grid": 11,
    "evaluation.study_report": 11,
    "reader_study.trials": 11,
    "serving.export": 11,
    "serving.formats": 11,
    "tools._cohort": 11,
    "tools._serving": 11,
    "tools._training": 11,
    "training.health": 11,
    "tools._side_by_side": 12,
    "training.loop": 12,
}
SCRIPTS = 13
TENSORS = 5

# A package or module on the left never imports the one on the right, at any
# floor.
STRANGERS = (
    ("losses", "models", "a loss receives feature tensors"),
    ("models", "methods", "a network receives numbers"),
    ("evaluation", "training", "it scores any callable"),
    ("serving.predict", "models", "it needs a SavedModel only"),
)


def floor_of(module: str) -> int | None:
    if module in FLOORS:
        return FLOORS[module]
    return SCRIPTS if module.startswith("tools.") else None


def is_in(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def modules(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Name, without "medgan_tf.", of every module and package -> its file."""
    found = {}
    for folder, prefix in ((root / "medgan_tf", ()), (root / "tools", "tools")):
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            parts = (prefix, *parts) if prefix else parts
            if parts[-1] == "__init__":
                parts = parts[:-1]
            found[".".join(parts)] = file
    return found


def imports(tree: ast.Module) -> Iterator[tuple[ast.stmt, str, bool]]:
    """Yields the statement, each name it imports, and if in a function."""

    def walk(node: ast.AST, inside: bool):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield child, alias.name, inside
            elif isinstance(child, ast.ImportFrom):
                module = [child.module] if child.module else []
                for alias in child.names:
                    name = ".".join([*module, alias.name])
                    yield child, "." * child.level + name, inside
            is_function = isinstance(
                child, ast.FunctionDef | ast.AsyncFunctionDef
            )
            yield from walk(child, inside or is_function)

    return walk(tree, False)


def complaints(
    module: str, imported: str, in_function: bool, known: set[str]
) -> Iterator[str]:
    """Yields what is wrong with one import of one module."""
    floor = floor_of(module)
    if in_function and not is_in(module, "tools"):
        yield "an import inside a function hides a circle: move it to the top"
    if imported.startswith("."):
        yield f"relative import {imported}: write the full name"
        return
    if imported.split(".")[0] in ("tensorflow", "keras") and floor < TENSORS:
        yield f"{module} is on floor {floor}, TensorFlow begins on {TENSORS}"
    if not is_in(module, "tools") and (
        is_in(imported, "absl.flags") or is_in(imported, "absl.app")
    ):
        yield "flags are defined and read in tools/ only"
    if not is_in(imported, "medgan_tf"):
        return
    target = imported.removeprefix("medgan_tf").removeprefix(".")
    while target and target not in known:  # a name of a module, not a module
        target = target.rpartition(".")[0]
    for package, stranger, reason in STRANGERS:
        if is_in(module, package) and is_in(target, stranger):
            yield f"{package} never imports {stranger}: {reason}"
    target_floor = floor_of(target)
    if target_floor is not None and target_floor >= floor:
        yield (
            f"{module} (floor {floor}) may not import {target} "
            f"(floor {target_floor}): only lower floors"
        )


def offences(root: pathlib.Path) -> list[str]:
    """One line per broken rule below `root`, "file:line: rule"."""
    known = modules(root)
    found = []
    for module, file in known.items():
        where = file.relative_to(root).as_posix()
        tree = ast.parse(file.read_text(encoding="utf-8"), where)
        if file.name == "__init__.py":
            found += [
                f"{where}:{statement.lineno}: an __init__.py imports nothing"
                for statement, _, _ in imports(tree)
            ]
        elif floor_of(module) is None:
            found.append(f"{where}:1: {module} is new: give it a floor")
        else:
            found += [
                f"{where}:{statement.lineno}: {complaint}"
                for statement, imported, in_function in imports(tree)
                for complaint in complaints(
                    module, imported, in_function, set(known)
                )
            ]
    return found


def test_every_module_imports_only_what_its_floor_allows():
    found = offences(ROOT)
    assert not found, "\n" + "\n".join(found)


def test_every_module_that_has_a_floor_exists():
    assert FLOORS.keys() - modules(ROOT) == set()


def write(root: pathlib.Path, sources: dict[str, str]) -> None:
    for name, source in sources.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source, encoding="utf-8")


def test_a_small_tree_with_downhill_imports_is_left_in_peace(tmp_path):
    write(
        tmp_path,
        {
            "medgan_tf/__init__.py": '"""Docstring."""\n',
            "medgan_tf/errors.py": "import enum\n",
            "medgan_tf/data/__init__.py": "",
            "medgan_tf/data/io.py": "from medgan_tf import __version__, errors",
            "medgan_tf/data/records.py": (
                "import tensorflow as tf\n"
                "from absl import logging\n"
                "from medgan_tf.data.io import read_volume\n"
            ),
            "tools/_run.py": "from absl import app, flags\n",
            "tools/train.py": (
                "from medgan_tf.tools import _run\n"
                "def main():\n"
                "    from medgan_tf.data import records\n"
            ),
        },
    )
    assert offences(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "source", "offence"),
    [
        (
            "medgan_tf/data/io.py",
            "import os\nfrom medgan_tf.data import records\n",
            "data/io.py:2: data.io (floor 4) may not import data.records "
            "(floor 5)",
        ),
        (
            "medgan_tf/data/records.py",
            "from medgan_tf.models.layers import Upsample",
            "data.records (floor 5) may not import models.layers (floor 5)",
        ),
        (
            "medgan_tf/training/loop.py",
            "import medgan_tf.tools.train",
            "training.loop (floor 12) may not import tools.train (floor 13)",
        ),
        (
            "tools/train.py",
            "from medgan_tf.tools import predict",
            "tools.train (floor 13) may not import tools.predict (floor 13)",
        ),
        (
            "medgan_tf/data/io.py",
            "from keras import layers",
            "data.io is on floor 4, TensorFlow begins on 5",
        ),
        (
            "medgan_tf/training/loop.py",
            "from absl import flags",
            "flags are defined and read in tools/ only",
        ),
        (
            "medgan_tf/training/loop.py",
            "def train():\n    import json\n",
            "training/loop.py:2: an import inside a function",
        ),
        (
            "medgan_tf/training/loop.py",
            "from . import step",
            "relative import .step",
        ),
        (
            "medgan_tf/losses/objective.py",
            "from medgan_tf.models import layers",
            "losses never imports models",
        ),
        (
            "medgan_tf/models/casnet.py",
            "from medgan_tf import methods",
            "models never imports methods",
        ),
        (
            "medgan_tf/evaluation/report.py",
            "from medgan_tf.training import config",
            "evaluation never imports training",
        ),
        (
            "medgan_tf/serving/predict.py",
            "from medgan_tf.models import casnet",
            "serving.predict never imports models",
        ),
        (
            "medgan_tf/helpers.py",
            "",
            "medgan_tf/helpers.py:1: helpers is new: give it a floor",
        ),
        (
            "medgan_tf/losses/__init__.py",
            "from medgan_tf.losses import style",
            "losses/__init__.py:1: an __init__.py imports nothing",
        ),
    ],
)
def test_an_offence_is_told_with_its_line_and_rule(
    tmp_path, name, source, offence
):
    write(
        tmp_path,
        {
            "medgan_tf/methods.py": "",
            "medgan_tf/data/records.py": "",
            "medgan_tf/models/layers.py": "",
            "medgan_tf/models/casnet.py": "",
            "medgan_tf/training/config.py": "",
            "tools/train.py": "",
            "tools/predict.py": "",
            name: source,
        },
    )
    found = offences(tmp_path)
    assert any(offence in line for line in found), found
