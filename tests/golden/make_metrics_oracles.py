"""Makes metrics_oracles.json of the programs that it is to come from.

  make_metrics_oracles.py pairs FOLDER               where medgan_tf's tests are
  make_metrics_oracles.py sewar FOLDER               where sewar is installed
  make_metrics_oracles.py piq FOLDER                 where piq and torch are
  make_metrics_oracles.py synthrad FOLDER 2023 2025  where scikit-image is
  make_metrics_oracles.py join FOLDER

The programs do not fit into one environment, so each leaves its numbers in
FOLDER. 2023 and 2025 are image_metrics.py of SynthRAD2023/metrics and of
SynthRAD2025/evaluation.
"""

import importlib.util
import json
import pathlib
import sys
import types

import numpy as np

HERE = pathlib.Path(__file__).parent
TESTS = HERE.parent / "evaluation" / "test_oracles.py"
PROGRAMS = ("sewar", "piq")


def module_of(path):
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def save_pairs(folder):
    tests = module_of(TESTS)
    arrays = dict(
        zip(("translated", "target", "mask"), tests.volume(), strict=True)
    )
    for name, (translated, target, data_range) in tests.pairs().items():
        arrays[f"{name}/translated"] = np.float64(translated)
        arrays[f"{name}/target"] = np.float64(target)
        arrays[f"{name}/range"] = data_range
    np.savez(folder / "pairs.npz", **arrays)


def pairs_in(folder):
    arrays = np.load(folder / "pairs.npz")
    for key in arrays:
        name, _, what = key.partition("/")
        if what == "range":
            yield (
                name,
                arrays[f"{name}/translated"],
                arrays[f"{name}/target"],
                float(arrays[key]),
            )


def of_sewar(folder):
    import sewar
    from sewar.utils import Filter

    window = {"fltr": Filter.GAUSSIAN, "sigma": 1.5, "ws": 11}
    numbers = {}
    for name, translated, target, data_range in pairs_in(folder):
        grey = 255 / data_range  # What its VIF takes for granted.
        numbers[name] = {
            "ssim": sewar.ssim(
                target, translated, MAX=data_range, fltr_specs=window
            )[0],
            "psnr": sewar.psnr(target, translated, MAX=data_range),
            "mse": sewar.mse(target, translated),
            "vif": sewar.vifp(target * grey, translated * grey),
            "uqi_sewar": sewar.uqi(target, translated),
        }
    return numbers


def of_piq(folder):
    import torch

    # Its package imports torchvision, which neither function needs.
    path = importlib.util.find_spec("piq").submodule_search_locations
    sys.modules["piq"] = types.ModuleType("piq")
    sys.modules["piq"].__path__ = path
    from piq.ssim import ssim
    from piq.vif import vif_p

    numbers = {}
    for name, *images, data_range in pairs_in(folder):
        tensors = [torch.from_numpy(image)[None, None] for image in images]
        numbers[name] = {
            "ssim": ssim(*tensors, data_range=data_range, downsample=False),
            "vif": vif_p(*tensors, data_range=data_range),
        }
    return numbers


def of_synthrad(folder, file_of_2023, file_of_2025):
    # Only for reading files, and moved in newer versions of scikit-image.
    for name in ("SimpleITK", "evalutils", "evalutils.io"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["evalutils.io"].SimpleITKLoader = None
    import skimage.util

    sys.modules["skimage.util.arraycrop"] = types.ModuleType("arraycrop")
    sys.modules["skimage.util.arraycrop"].crop = skimage.util.crop

    arrays = np.load(folder / "pairs.npz")
    mask = arrays["mask"].astype(np.uint8)
    images = arrays["target"], arrays["translated"], mask
    old = module_of(file_of_2023).ImageMetrics()
    return {
        "synthrad2023": {
            "mae": old.mae(*images),
            "psnr": old.psnr(*images, use_population_range=True),
            "ssim": old.ssim(*images),
        },
        "synthrad2025": module_of(file_of_2025)
        .ImageMetrics()
        .score_patient(*images),
    }


def join(folder):
    found = {
        name: json.loads((folder / f"{name}.json").read_text())
        for name in (*PROGRAMS, "synthrad")
    }
    pairs = {
        name: {program: found[program][name] for program in PROGRAMS}
        for name in found["sewar"]
    }
    content = {"pairs": pairs, "volume": found["synthrad"]}
    text = json.dumps(content, indent=1) + "\n"
    (HERE / "metrics_oracles.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    what, place, *more = sys.argv[1:]
    place = pathlib.Path(place)
    if what == "pairs":
        save_pairs(place)
    elif what == "join":
        join(place)
    else:
        made = {"sewar": of_sewar, "piq": of_piq, "synthrad": of_synthrad}
        text = json.dumps(made[what](place, *more), default=float)
        (place / f"{what}.json").write_text(text)
