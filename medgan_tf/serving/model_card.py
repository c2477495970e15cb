"""What a model is, was made of, can do and must not be used for, on one page.

After Mitchell et al., "Model Cards for Model Reporting" (2019). Only what is
known stands there, and no name of a patient or a folder.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence

from medgan_tf import errors, sealed, tasks
from medgan_tf.data import records
from medgan_tf.evaluation import report

FILE = "MODEL_CARD.md"

# Beyond what INTENDED_USE says.
_LIMITS = (
    "It translates one slice at a time and knows nothing of the slices beside "
    "it.",
    "Values beyond a window are clipped, and it gives none beyond the "
    "target's.",
    "Nothing is known of scanners, protocols, body regions, ages and diseases "
    "that its data did not hold.",
    "It says nothing about how sure it is.",
)
_MEANINGS = {
    "source": "slices in the unit of the source",
    "source_scale": "99.9th percentile of the voxels above 0 of the volume "
    "that a slice is from",
    "translated": "slices in the unit of the target",
    "png_bytes": "PNG files, 256 x 256, 16 bits, grey; a value v stands for "
    "slope * v + offset",
    "slope": "unit of the source per step of a PNG value",
    "offset": "what the PNG value 0 stands for",
    "translated_bytes": "PNG files, alike",
    "translated_slope": "unit of the target per step of a PNG value",
    "translated_offset": "what the PNG value 0 stands for",
    "examples": "serialized tf.train.Example; features: `source`, a list of "
    "256 * 256 * channels floats, rows first and channels last, and, for a "
    "model with a `source_scale`, `source_scale`, a list of floats",
}


def text(
    info: Mapping,
    patients: Mapping[str, int | None],
    scores: Sequence[Mapping],
) -> str:
    """The page, in Markdown.

    Args:
      info: `medgan.json` as a dict.
      patients: from `patients_of`.
      scores: from `scores_of`.
    """
    task = tasks.from_stored(info["task_row"])
    sections = {
        "Intended use": [info["intended_use"]],
        "Model": _model(info, task),
        "Data": _data(info, patients),
        "Scores": _scores(info, scores),
        "Images": _images(info, task),
        "Signatures": _signatures(info),
        **({"Conversion": _conversion(info)} if "parity" in info else {}),
        "Limits": _limits(info),
    }
    lines = [f"# {info['method']['title']}: {task.title}"]
    for title, content in sections.items():
        lines += ["", f"## {title}", "", *content]
    return "\n".join(lines) + "\n"


def patients_of(data: Mapping) -> dict[str, int | None]:
    """Split -> number of patients; None where the records are gone.

    Args:
      data: of `run.json`.
    """
    unknown = dict.fromkeys(("validation", "test"))
    trained = {"train": len(data.get("train_patients", ())) or None, **unknown}
    try:
        dataset = records.open_dataset(data["folder"])
    except (errors.DataError, KeyError):
        return trained
    if dataset.info["fingerprint"] != data["fingerprint"]:
        return trained
    return {split: len(dataset.patients(split)) for split in trained}


def scores_of(workdir: pathlib.Path, which: str, step: int) -> list[dict]:
    """Every `scores.json` of this checkpoint on the test patients.

    Args:
      workdir: of the run.
      which: "best" or "last".
      step: of the checkpoint; scores of another one are left out.

    Raises:
      errors.ArtefactError: a file is damaged.
    """
    found = []
    for path in sorted(workdir.glob(f"test_{which}*/scores.json")):
        try:
            content = sealed.read(path)
            settings = content["settings"]
            is_ours = (settings["checkpoint"], settings["split"]) == (
                which,
                "test",
            ) and settings["discriminator_steps"] == step
            content["protocol"]["metrics"], content["statistics"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise errors.ArtefactError(
                f"{path} cannot be read ({str(error).splitlines()[0]}); "
                "evaluate again, or remove it."
            ) from error
        if is_ours:
            found.append(content)
    return found


def _model(info: Mapping, task: tasks.Task) -> list[str]:
    method = info["method"]
    versions = ", ".join(f"{k} {v}" for k, v in info["versions"].items())
    lines = [
        f"- Task: `{info['task']}`, {task.title}",
        f"- Method: `{method['name']}`, {method['title']}; "
        f"{method['num_u_blocks']} U-block(s), ngf {method['ngf']}",
        f"- Checkpoint: {info['checkpoint']}, after "
        f"{info['discriminator_steps']} steps; weights in {info['precision']}",
        f"- Format: {info['format']}",
        f"- Made with: {versions}",
    ]
    if method["dropout"]:
        lines.append("- It draws noise: no two answers are the same.")
    return lines


def _data(info: Mapping, patients: Mapping[str, int | None]) -> list[str]:
    simulated = "yes" if info["trained_on_simulated_images"] else "no"
    counts = ", ".join(
        f"{split} {'not known' if count is None else count}"
        for split, count in patients.items()
    )
    return [
        f"- Patients: {counts}; no patient is in two of them",
        f"- Origin: {info['data_origin'] or 'not known'}",
        f"- Simulated images: {simulated}",
        f"- Fingerprint: `{info['data_fingerprint']}`",
    ]


def _scores(info: Mapping, scores: Sequence[Mapping]) -> list[str]:
    if not scores:
        return ["Not evaluated on test patients."]
    lines = []
    for content in scores:
        settings, protocol = content["settings"], content["protocol"]
        if lines:
            lines.append("")
        simulated = ", simulated images" if settings["is_simulated"] else ""
        lines += [
            f"Protocol `{protocol['name']}`, mean over test patients"
            f"{simulated}. Intervals are 95 %.",
            "",
        ]
        if settings["data_fingerprint"] != info["data_fingerprint"]:
            lines += [
                "These patients are of other records than the training's: "
                f"`{settings['data_fingerprint']}`.",
                "",
            ]
        lines += _score_table(content)
    return lines


def _score_table(content: Mapping) -> list[str]:
    others = [name for name in content["images"] if name == "source"]
    lines = [
        f"| | {' | '.join(['translated', 'interval', *others])} |",
        f"|---|{'---|' * (2 + len(others))}",
    ]
    notes = {}
    for name, metric in content["protocol"]["metrics"].items():
        known = content["statistics"].get(name, {}).get("images", {})
        if "translated" not in known:
            continue
        found = known["translated"]
        ends = [found["low"], found["high"]]
        mean = [_number(found["mean"])]
        (shown,) = report.cells(mean)
        (sd,) = report.cells([_number(found["sd"])], like=mean)
        interval = "-"
        if None not in ends:
            interval = " to ".join(report.cells(ends, like=mean))
        elif found["note"]:
            notes[found["note"]] = None
        cells = [f"{shown} ± {sd}", interval]
        for other in others:
            value = _number(known.get(other, {}).get("mean"))
            cells += report.cells([value], like=mean)
        unit = f" ({metric['unit']})" if metric["unit"] else ""
        lines.append(f"| {metric['label']}{unit} | {' | '.join(cells)} |")
    numbers = content["images"]["translated"]["num_slices"]
    lines += ["", f"{len(numbers)} patients, {sum(numbers.values())} images."]
    return lines + [f"Without an interval: {note}." for note in notes]


def _images(info: Mapping, task: tasks.Task) -> list[str]:
    size = info["slice_size"]
    spacing = "as scanned"
    if any(task.voxel_size_mm):
        spacing = " x ".join(
            f"{side:g}" if side else spacing for side in task.voxel_size_mm
        )
    lines = ["| | modality | unit | window |", "|---|---|---|---|"]
    roles = ["source"] * len(task.sources) + ["target"]
    for role, kind in zip(roles, (*task.sources, task.target), strict=True):
        window = "0 to `source_scale`"
        if kind.window is not None:
            window = f"{kind.window[0]:g} to {kind.window[1]:g}"
        lines.append(f"| {role} | {kind.name} | {kind.unit} | {window} |")
    return [
        *lines,
        "",
        f"Slices of {size} x {size} pixels; {info['orientation']}. Voxel size "
        f"(mm, left, posterior, superior): {spacing}.",
    ]


def _signatures(info: Mapping) -> list[str]:
    lines, named = [], {}
    for name, described in info["signatures"].items():
        lines += [f"`{name}`", ""]
        for way in ("inputs", "outputs"):
            for key, spec in described[way].items():
                shape = ", ".join(
                    "B" if side is None else str(side) for side in spec["shape"]
                )
                lines.append(f"- {way[:-1]} `{key}`: {spec['dtype']} [{shape}]")
                named[key] = _MEANINGS[key]
        lines.append("")
    return lines + [f"- `{key}`: {meaning}" for key, meaning in named.items()]


def _conversion(info: Mapping) -> list[str]:
    return [
        "| largest difference to TensorFlow | share of half the window |",
        "|---|---|",
        *(
            f"| {row['images']} | {row['largest']:.1e} |"
            for row in info["parity"]
        ),
        "",
        f"`{info['file']}`, {info['num_bytes'] / 1e6:.1f} MB.",
    ]


def _limits(info: Mapping) -> list[str]:
    lines = list(_LIMITS)
    if info["trained_on_simulated_images"]:
        lines.append(
            "It was trained on simulated images; how it does on measured ones "
            "is another question."
        )
    if info["precision"] != "float32":
        lines.append(
            f"Its weights are in {info['precision']}; what was scored is the "
            "model in float32."
        )
    if info["format"] != "savedmodel":
        lines.append(
            "This format checks no values: what is not finite, or a scale "
            "of 0, goes through unseen."
        )
    return [f"- {line}" for line in lines]


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
