"""Makes a table or a figure of the paper anew, on your data.

Trains every method of it that is not trained yet, each into a folder of its
own below --workdir, scores all on the test patients and writes one page,
report.html, with tables, intervals, significance, pictures and settings, and
the paper's own numbers beside them. What was stopped goes on with the same
command. Without --data_dir the patients are built in, and simulated.

Examples:
  reproduce.py --what=table2 --task=pet_ct --data_dir=data/pet_ct \\
      --workdir=runs/pet_ct --vgg_weights=vgg19.npz
  reproduce.py --flagfile=flags/reproduce_small.flags
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from absl import flags

from medgan_tf import errors, methods, tasks
from medgan_tf.evaluation import protocols, studies
from medgan_tf.tools import _run, _training

if TYPE_CHECKING:
    from medgan_tf.data import sample
    from medgan_tf.evaluation import examples, results
    from medgan_tf.training import checkpoint

flags.adopt_module_key_flags(_training)

_WHAT = flags.DEFINE_list(
    "what", None, f"Of {', '.join(studies.NAMES)}: one or more.", required=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for all (default: runs/reproduce_TASK)."
)
_SET = flags.DEFINE_multi_string(
    "set",
    [],
    "field=value changes a field of all methods, METHOD.field=value of one; "
    "may be given several times.",
)
_U_BLOCKS = flags.DEFINE_list(
    "u_blocks",
    [str(n) for n in studies.SEVEN],
    "How many of them figure6 compares.",
)
_CURVE_METHOD = flags.DEFINE_enum(
    "curve_method",
    "pix2pix",
    list(methods.METHODS),
    "Whose generator has them; Appendix A trains pix2pix.",
)
_PROTOCOLS = flags.DEFINE_list(
    "protocols",
    ["paper"],
    f"Of {', '.join(protocols.PROTOCOLS)}, for the tables; see evaluate.py. "
    "paper is always one.",
)
_TRANSLATED_DIR = flags.DEFINE_multi_string(
    "translated_dir",
    [],
    "NAME=FOLDER: the test slices as another method translated them, a file "
    "each as for evaluate.py --translated_dir; a row of its own in each table.",
)
_LPIPS_WEIGHTS = flags.DEFINE_list(
    "lpips_weights", [], "Files that convert_lpips.py made; see evaluate.py."
)


class _Other(NamedTuple):
    """A method whose images another program made.

    Attributes:
      name: of the folder with its scores.
      label: for people.
      folder: with a file for each slice.
    """

    name: str
    label: str
    folder: pathlib.Path


def main(_: list[str]) -> None:
    task = tasks.TASKS[_training.TASK.value]
    workdir = pathlib.Path(_WORKDIR.value or f"runs/reproduce_{task.name}")
    try:
        _training.config()
        chosen = _studies()
    except ValueError as error:
        raise errors.UsageError(str(error)) from error
    variants = {v.name: v for study in chosen for v in study.variants}
    scored = list(dict.fromkeys(["paper", *_PROTOCOLS.value]))
    _check_protocols(scored, task)
    others = _others()

    _run.show_log()
    _run.import_tensorflow()
    import tensorflow as tf

    from medgan_tf.evaluation import results, study_report
    from medgan_tf.models import vgg19

    # The scripts that are called need the memory of the GPUs.
    tf.config.set_visible_devices([], "GPU")
    for variant in variants.values():
        # Told now, not after the hours that the methods before it take.
        if layers := variant.resolved().vgg_layers:
            vgg19.VGG19Features(layers, _training.config().vgg_weights)

    for number, variant in enumerate(variants.values(), start=1):
        print(f"\nRun {number} of {len(variants)}: {variant.label}")
        _train(variant, workdir)
        for protocol in scored:
            _evaluate(workdir / variant.name, protocol)

    for other in others:
        for protocol in scored:
            _evaluate_other(other, workdir, protocol)

    print("\nWriting the report.")
    sections = []
    for study in chosen:
        rows = [*study.variants, *(others if not study.curve else [])]
        found = {
            protocol: [
                results.read(
                    row.name, row.label, _scores(workdir / row.name, protocol)
                )
                for row in rows
            ]
            for protocol in scored
        }
        trainings = {
            v.name: study_report.read_training(workdir / v.name)
            for v in study.variants
        }
        pictures = _pictures(study.name, rows, found["paper"], workdir)
        sections.append(study_report.Section(study, found, pictures, trainings))
    path = study_report.write(workdir / "report.html", sections, task)
    print(f"Report: {path}")


def _studies() -> list[studies.Study]:
    """What is asked for."""
    if unknown := [name for name in _WHAT.value if name not in studies.NAMES]:
        raise errors.UsageError(
            f"--what={unknown[0]}: expected {', '.join(studies.NAMES)}."
        )
    u_blocks = _run.numbers("u_blocks", _U_BLOCKS.value)
    if not u_blocks or any(n < 1 or n != int(n) for n in u_blocks):
        raise errors.UsageError(
            f"--u_blocks={','.join(_U_BLOCKS.value)}: expected whole numbers "
            "of at least 1."
        )
    u_blocks = [int(n) for n in dict.fromkeys(u_blocks)]
    return [
        studies.study(
            name,
            _SET.value,
            u_blocks=u_blocks,
            curve_method=_CURVE_METHOD.value,
        )
        for name in dict.fromkeys(_WHAT.value)
    ]


def _check_protocols(names: list[str], task: tasks.Task) -> None:
    """Refuses a protocol that is none, or that is not for such targets."""
    for name in names:
        if name not in protocols.PROTOCOLS:
            known = ", ".join(protocols.PROTOCOLS)
            raise errors.UsageError(f"--protocols={name}: expected {known}.")
        protocols.of_task(name, task)


def _others() -> list[_Other]:
    """The methods whose images were made elsewhere."""
    others = []
    for text in _TRANSLATED_DIR.value:
        label, equals, folder = text.partition("=")
        if not (label and equals and folder):
            raise errors.UsageError(
                f"--translated_dir={text}: expected NAME=FOLDER."
            )
        if not _training.DATA_DIR.value:
            raise errors.UsageError(
                "--translated_dir needs --data_dir, the records with the "
                "targets."
            )
        name = "elsewhere_" + re.sub(r"\W+", "_", label)
        if name in {other.name for other in others}:
            raise errors.UsageError(
                f"--translated_dir={text}: the name is there twice; choose "
                "another."
            )
        others.append(_Other(name, label, pathlib.Path(folder)))
    return others


def _train(variant: studies.Variant, workdir: pathlib.Path) -> None:
    """Trains what is missing of a run; nothing if it is whole."""
    shared = flags.FLAGS.get_key_flags_for_module(_training)
    _run.command(
        "train.py",
        f"--method={variant.method}",
        f"--workdir={workdir / variant.name}",
        *(flag.serialize() for flag in shared if flag.present),
        *(f"--set={setting}" for setting in variant.settings),
    )


def _evaluate(folder: pathlib.Path, protocol: str) -> None:
    """Scores a run, unless that has been done as it would be done now."""
    output_dir = _scores(folder, protocol)
    if _is_scored(folder, output_dir / "scores.json", protocol):
        return
    _run.command(
        "evaluate.py",
        f"--workdir={folder}",
        f"--protocol={protocol}",
        f"--output_dir={output_dir}",
        *(f"--lpips_weights={path}" for path in _LPIPS_WEIGHTS.value),
    )


def _is_scored(
    folder: pathlib.Path, scores: pathlib.Path, protocol: str
) -> bool:
    """Whether scores are of the best weights, these records and settings."""
    from medgan_tf.training import checkpoint

    run = checkpoint.load_run(folder)
    now = protocols.of_task(protocol, run.restored_task())
    try:
        known = json.loads(scores.read_text())
        weighted = {
            name
            for name, measure in now.measures.items()
            if measure.metric.function is None
        }
        num_computed = len(weighted - set(known["not_computed"]))
        return (
            known["settings"]["discriminator_steps"]
            == checkpoint.step_of(run, "best")
            and known["settings"]["data_fingerprint"] == run.data["fingerprint"]
            and known["protocol"] == now.described()
            and num_computed == min(len(_LPIPS_WEIGHTS.value), len(weighted))
        )
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _evaluate_other(
    other: _Other, workdir: pathlib.Path, protocol: str
) -> None:
    """Scores a folder each time, as nobody knows what happened to it."""
    _run.command(
        "evaluate.py",
        f"--translated_dir={other.folder}",
        f"--data_dir={_training.DATA_DIR.value}",
        f"--method_name={other.label}",
        f"--protocol={protocol}",
        f"--output_dir={_scores(workdir / other.name, protocol)}",
        *(f"--lpips_weights={path}" for path in _LPIPS_WEIGHTS.value),
    )


def _scores(folder: pathlib.Path, protocol: str) -> pathlib.Path:
    return folder / f"test_{protocol}"


def _pictures(
    name: str,
    rows: Sequence[studies.Variant | _Other],
    found: Sequence[results.Result],
    workdir: pathlib.Path,
) -> list[tuple[bytes, str]]:
    """Slices of median and of lowest SSIM, with every method's image."""
    import tqdm

    from medgan_tf.evaluation import grid, results
    from medgan_tf.training import checkpoint

    ssim = results.mean_ssim(found)
    median = results.choose_median(ssim)
    worst = results.choose_worst(ssim)
    # Those of this program come first.
    run = checkpoint.load_run(workdir / rows[0].name)
    shown = {
        row.label: _translated(row, run, workdir, {**median, **worst})
        for row in tqdm.tqdm(rows, unit="method", desc=name)
    }

    def picture(chosen) -> bytes:
        return grid.draw(
            {
                label: [one for one in them if _key(one) in chosen]
                for label, them in shown.items()
            },
            run.restored_task(),
        )

    return [
        (
            picture(median),
            "Of each patient the slice of median SSIM (mean over the "
            "methods); below each image its error, on one scale for all.",
        ),
        (
            picture(worst),
            "The five worst slices by SSIM (mean over the methods), none "
            "next to another.",
        ),
    ]


def _translated(
    row: studies.Variant | _Other,
    first: checkpoint.Run,
    workdir: pathlib.Path,
    chosen: dict,
) -> list[examples.Example]:
    """The chosen slices as one method translates them."""
    import tensorflow as tf

    from medgan_tf.data import records
    from medgan_tf.evaluation import elsewhere, elsewhere_files, examples
    from medgan_tf.training import checkpoint

    dataset = records.open_dataset(first.data["folder"])
    if isinstance(row, _Other):
        needed = elsewhere_files.wanted(dataset.samples("test"))
        of_interest = (s for s in dataset.samples("test") if _key(s) in chosen)
        return examples.translate_chosen(
            elsewhere.attach(
                of_interest,
                elsewhere_files.slices(row.folder, needed),
                first.restored_task().target,
            ),
            elsewhere.translate,
            chosen,
        )
    run = checkpoint.load_run(workdir / row.name)
    # Where the generator draws, it draws the same each time.
    tf.keras.utils.set_random_seed(run.config.seed)
    generator, _ = checkpoint.load_generator(run, "best")
    return examples.translate_chosen(
        dataset.samples("test"),
        tf.function(generator, reduce_retracing=True),
        chosen,
    )


def _key(one: examples.Example | sample.Sample) -> tuple[str, str, int]:
    return one.patient, one.study, one.slice_index


def run() -> None:
    _run.run(main)


if __name__ == "__main__":
    run()
