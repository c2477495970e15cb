"""Shows the whole way once, on built-in patients, who are simulated.

Trains a small MedGAN to turn a PET image of a quarter of the counts into one
of all counts, scores it on patients it never saw, exports it and translates
the volume of one of them; takes some minutes on two processor cores. The
commands it runs are printed, so that they can be typed with your own data.
"""

from __future__ import annotations

import itertools
import os
import pathlib
import time

from absl import flags

from medgan_tf import errors, tasks
from medgan_tf.tools import _run

_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "New folder for everything (default: the first free one of runs/demo-1, "
    "runs/demo-2, ...).",
)

ROOT = pathlib.Path(__file__).resolve().parents[1]
TASK = tasks.TASKS["pet_denoise"]
NUM_PATIENTS = 16


def main(_: list[str]) -> None:
    start = time.monotonic()
    folder = pathlib.Path(_WORKDIR.value or _first_free("runs/demo"))
    if folder.exists():
        raise errors.ResourceError(
            f"{folder} exists; remove it, or give another --workdir."
        )
    print("Demonstration on SIMULATED images of built-in patients.\n")
    _run.command(
        "prepare_data.py",
        f"--task={TASK.name}",
        f"--num_phantoms={NUM_PATIENTS}",
        f"--output_dir={folder / 'data'}",
    )
    _run.command(
        "train.py",
        f"--flagfile={ROOT / 'flags' / 'demo.flags'}",
        f"--data_dir={folder / 'data'}",
        f"--workdir={folder / 'run'}",
    )
    _run.command("evaluate.py", f"--workdir={folder / 'run'}")
    _run.command(
        "export.py",
        f"--workdir={folder / 'run'}",
        f"--output_dir={folder / 'model'}",
    )
    low_count = _write_held_out_volume(folder)
    translated = folder / f"{low_count.name.split('_')[0]}_translated.nii.gz"
    _run.command(
        "predict.py",
        f"--model={folder / 'model'}",
        str(low_count),
        str(translated),
    )
    minutes = (time.monotonic() - start) / 60
    print(f"\nDone in {minutes:.1f} minutes. All images are simulated.")
    print(f"Picture: {folder / 'run' / 'test_best' / 'examples.png'}")
    print(f"Volumes: {low_count} and {translated}")


def _first_free(stem: str) -> str:
    """The stem with the first number that no folder has yet."""
    numbers = itertools.count(1)
    return next(p for n in numbers if not os.path.exists(p := f"{stem}-{n}"))


def _write_held_out_volume(folder: pathlib.Path) -> pathlib.Path:
    """Writes the low-count PET of a test patient, as a scanner would."""
    import json

    from medgan_tf.data import io, pairs

    info = json.loads((folder / "data" / "dataset.json").read_text())
    name = info["splits"]["test"]["patients"][0]
    number = int(name.removeprefix("phantom"))
    options = pairs.Options(seed=info["options"]["seed"])
    images = pairs.phantom_images(TASK, number, options.seed)
    (((source,), _),) = pairs.simulate(TASK, name, images, options)
    path = folder / f"{name}_low_count.nii.gz"
    io.write_volume(path, source)
    io.write_volume(folder / f"{name}_full_count.nii.gz", images.target)
    return path


def run() -> None:
    _run.run(main)


if __name__ == "__main__":
    run()
