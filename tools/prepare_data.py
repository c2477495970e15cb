"""Turns files of patients into records for training.

Say where the patients are in one of these ways:
  --manifest=pairs.csv            columns patient,source,target
  --input_dir=DIR --source='*/MR.nii.gz' --target='*/CT.nii.gz'
  --input_dir=DIR --layout=NAME   a known layout: synthrad2023, synthrad2025,
                                  autopet, bids, dicom
  --input_dir=DIR --target='*.nii.gz' --tissues=NAME    label maps, of which
                                  all images are simulated
  none of them                    built-in patients, who are simulated
For pet_denoise and mr_motion the source may be left out: it is simulated
from the target. A volume is a NIfTI, MHA, NRRD, .npy or TIFF file, a folder
with 16-bit PNG or TIFF slices, or a folder of DICOM files. Broken off, the
same command goes on where it was.

Records hold ids for the names of patients and studies, but for built-in
patients; who is who stands in OUTPUT_DIR_patients.csv, for the user alone.
With --keep_ids, as for public data, they hold the names.

Example:
  prepare_data.py --task=mr_ct --input_dir=study --source='*/MR.nii.gz' \\
      --target='*/CT.nii.gz' --output_dir=data/mr_ct
"""

from __future__ import annotations

import functools
import inspect
import os
import sys

from absl import flags

from medgan_tf import errors, tasks
from medgan_tf.tools import _cohort, _run

flags.adopt_module_key_flags(_cohort)
flags.mark_flag_as_required("task")
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "New folder for the records.", required=True
)
_KEEP_IDS = flags.DEFINE_bool(
    "keep_ids", False, "Whether records hold the patients' own names."
)
_PATIENTS_FILE = flags.DEFINE_string(
    "patients_file",
    None,
    "CSV file of who is who, made or added to: sets that share it share their "
    "ids (default: OUTPUT_DIR_patients.csv).",
)
_TEST = flags.DEFINE_list(
    "test_patients",
    [],
    "Patients to test on, by commas (one with a comma in double quotes); "
    "default: drawn, see --split.",
)
_VALIDATION = flags.DEFINE_list(
    "validation_patients", [], "Patients to validate on; default: drawn."
)
_SPLIT = flags.DEFINE_list(
    "split",
    ["0.7", "0.1", "0.2"],
    "Shares of patients for training, validation and test.",
)
_SIMULATE = flags.DEFINE_multi_string(
    "simulate",
    [],
    "Option of the simulator, NAME=VALUE, such as fraction=0.1 (pet_denoise) "
    "or severity=2 (mr_motion); a wrong name lists them.",
)
_REALISATIONS = flags.DEFINE_integer(
    "realisations",
    1,
    "How many sources to simulate from each target.",
    lower_bound=1,
)
_PHANTOMS = flags.DEFINE_integer(
    "num_phantoms", 20, "How many built-in patients to make.", lower_bound=3
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the split and the simulators.", 0)
_WORKERS = flags.DEFINE_integer(
    "workers", os.cpu_count(), "Processes to work with.", lower_bound=1
)
_RUNNER = flags.DEFINE_string(
    "runner",
    None,
    "Prepare on a cluster by this runner of Apache Beam, such as "
    "DirectRunner, DataflowRunner, FlinkRunner, SparkRunner; the machines "
    "share --output_dir and the input.",
)
_RUNNER_OPTIONS = flags.DEFINE_multi_string(
    "runner_option", [], "A flag of Beam's own, such as --region=europe-west3"
)


def main(_: list[str]) -> None:
    _cohort.check_flags()
    fractions = _run.numbers("split", _SPLIT.value)
    if len(fractions) != 3:
        raise errors.UsageError(
            f"--split={','.join(_SPLIT.value)}: expected three shares, such as "
            "0.7,0.1,0.2."
        )
    _check_flags()
    from medgan_tf.data import split as splits

    task, studies, options = _cohort.read(
        seed=_SEED.value, simulate=_simulate(), realisations=_REALISATIONS.value
    )
    if any(study.split for study in studies):
        if _TEST.value or _VALIDATION.value or flags.FLAGS["split"].present:
            raise errors.UsageError(
                "a split is given by a flag, and the manifest has a column "
                "`split`; expected one of them."
            )
        split = splits.given_split((s.patient, s.split) for s in studies)
    else:
        split = studies and splits.split_patients(
            [study.patient for study in studies],
            test=_TEST.value,
            validation=_VALIDATION.value,
            fractions=fractions,
            seed=_SEED.value,
        )
    _check_what_is_simulated(task, studies)
    _run.import_tensorflow()
    import tqdm

    from medgan_tf.data import prepare, pseudonyms

    patients_file = None
    if studies and not _KEEP_IDS.value:
        patients_file = _PATIENTS_FILE.value or pseudonyms.beside(
            _OUTPUT_DIR.value
        )
    count = len(studies) or _PHANTOMS.value
    settings = {
        "options": options,
        "workers": _WORKERS.value,
        "start_worker": _run.start_worker,
        "elsewhere": _elsewhere(),
        "progress": functools.partial(
            tqdm.tqdm, unit="study", desc=task.name, total=count
        ),
    }
    try:
        if studies:
            dataset = prepare.prepare(
                task,
                studies,
                _OUTPUT_DIR.value,
                split=split,
                patients_file=patients_file,
                **settings,
            )
        else:
            dataset = prepare.prepare_phantoms(
                task, count, _OUTPUT_DIR.value, **settings
            )
    except (errors.DataError, KeyboardInterrupt):
        if finished := prepare.num_finished(_OUTPUT_DIR.value):
            print(
                f"{finished} of {count} studies are kept in "
                f"{_OUTPUT_DIR.value}.incomplete; the same command goes on "
                "from there.",
                file=sys.stderr,
            )
        raise
    _tell(dataset)
    if patients_file:
        print(f"Who is who, to be kept apart from them: {patients_file}")


def _tell(dataset) -> None:
    for name in dataset.info["splits"]:
        print(
            f"{name}: {dataset.num_slices(name)} slices of "
            f"{len(dataset.patients(name))} patients"
        )
    shares = dataset.info["clipped_share"]
    sources = ", ".join(f"{share:.3%}" for share in shares["source"])
    print(
        f"Beyond the intensity window: {sources} of the source "
        f"voxels, {shares['target']:.3%} of the target voxels."
    )
    if dataset.info["is_simulated"]:
        print(f"Simulated images ({dataset.info['origin']}).")
    print(f"Records: {dataset.folder}")


def _check_flags() -> None:
    """Refuses flags that do not go together."""
    if _PATIENTS_FILE.value and (
        _KEEP_IDS.value
        or not (_cohort.MANIFEST.value or _cohort.INPUT_DIR.value)
    ):
        raise errors.UsageError(
            "--patients_file is for patients of a --manifest or --input_dir "
            "who get ids; leave it out, or leave out --keep_ids."
        )
    if (_TEST.value or _VALIDATION.value) and not (
        _cohort.MANIFEST.value or _cohort.INPUT_DIR.value
    ):
        raise errors.UsageError(
            "--test_patients and --validation_patients name patients of a "
            "--manifest or --input_dir; give one."
        )
    if flags.FLAGS["split"].present and not (
        _cohort.MANIFEST.value or _cohort.INPUT_DIR.value
    ):
        raise errors.UsageError(
            "--split is for a --manifest or --input_dir; built-in patients "
            "are split 70, 10, 20 per cent."
        )


def _check_what_is_simulated(task: tasks.Task, studies: list) -> None:
    """Refuses options of a simulation where nothing is simulated."""
    if task.simulator and not all(study.sources for study in studies):
        return
    if task.simulator and not studies:
        return
    asked = {
        "--simulate": bool(_SIMULATE.value),
        "--realisations": _REALISATIONS.value > 1,
        "an attenuation": any(s.ct or s.mu_map for s in studies),
    }
    for name, is_given in asked.items():
        if is_given:
            raise errors.UsageError(
                f"{name} is given, and no source is to be simulated; leave it "
                "out, or leave out the sources."
            )


def _simulate() -> dict[str, float | str | bool]:
    """--simulate as options of the task's simulator, of the right types."""
    if not _SIMULATE.value:
        return {}
    from medgan_tf.data import pairs

    task = tasks.TASKS[_cohort.TASK.value]
    simulator = pairs.SIMULATORS.get(task.simulator)
    if simulator is None:
        raise errors.UsageError(
            f"--simulate={_SIMULATE.value[0]}: --task={task.name} has no "
            "simulator; leave it out."
        )
    known = {
        name: parameter.default
        for name, parameter in inspect.signature(
            simulator.draw_parameters
        ).parameters.items()
        # The number of a realisation is not the user's to give.
        if name not in ("rng", "realisation")
    }
    options = {}
    for text in _SIMULATE.value:
        name, _, value = text.partition("=")
        try:
            kind = type(known[name])
            if kind is bool:
                options[name] = {"true": True, "false": False}[value.lower()]
            else:
                options[name] = kind(value)
        except (KeyError, ValueError) as error:
            raise errors.UsageError(
                f"--simulate={text}: expected NAME=VALUE with one of "
                + ", ".join(f"{n} (like {d})" for n, d in known.items())
                + "."
            ) from error
    import numpy as np

    simulator.draw_parameters(np.random.default_rng(0), **options)
    return options


def _elsewhere():
    """What prepares the studies on a cluster, if one is wanted."""
    if not _RUNNER.value:
        return None
    try:
        from medgan_tf.data import prepare_beam
    except ImportError as error:
        raise errors.UsageError(
            f"--runner={_RUNNER.value} needs Apache Beam ({error}); install "
            "medgan_tf[beam]."
        ) from error
    return functools.partial(
        prepare_beam.apply_to_all,
        runner=_RUNNER.value,
        options=_RUNNER_OPTIONS.value,
    )


def run() -> None:
    _run.run(main)


if __name__ == "__main__":
    run()
