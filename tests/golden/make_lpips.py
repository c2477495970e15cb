"""Makes lpips.npz: distances by the authors' own `lpips` package.

The package with torchvision's layers, random backbone weights and the
package's own heads (version 0.1). The tests draw the same weights and images
from the same seeds, so only heads and distances are stored. Needs torch and
lpips 0.1.4; where torchvision is absent, its two networks are rebuilt below.

  python tests/golden/make_lpips.py
"""

import importlib.metadata
import pathlib
import sys
import types

import numpy as np

BACKBONE_SEED = 2018
# (index in `features`, filters, channels, kernel side) of the convolutions.
CONVOLUTIONS = {
    "alex": (
        (0, 64, 3, 11),
        (3, 192, 64, 5),
        (6, 384, 192, 3),
        (8, 256, 384, 3),
        (10, 256, 256, 3),
    ),
    "vgg": (
        (0, 64, 3, 3),
        (2, 64, 64, 3),
        (5, 128, 64, 3),
        (7, 128, 128, 3),
        (10, 256, 128, 3),
        (12, 256, 256, 3),
        (14, 256, 256, 3),
        (17, 512, 256, 3),
        (19, 512, 512, 3),
        (21, 512, 512, 3),
        (24, 512, 512, 3),
        (26, 512, 512, 3),
        (28, 512, 512, 3),
    ),
}
DISTORTIONS = ("equal", "noisy", "noisier", "shifted", "brighter", "flat")
SHAPES = ((64, 64), (71, 94), (31, 40))


def random_backbone(network: str, seed: int) -> dict[str, np.ndarray]:
    """Weights under torchvision's names, kept alive by He's bound."""
    rng = np.random.Generator(np.random.PCG64(seed))

    def uniform(shape, bound):
        return (2 * rng.random(shape, np.float32) - 1) * np.float32(bound)

    state = {}
    for index, filters, channels, side in CONVOLUTIONS[network]:
        bound = np.sqrt(6 / (channels * side**2))
        shape = (filters, channels, side, side)
        state[f"features.{index}.weight"] = uniform(shape, bound)
        state[f"features.{index}.bias"] = uniform((filters,), 0.1)
    return state


def pairs(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """One pair [H, W] in [-1, 1] per distortion -> two arrays [B, H, W]."""
    rng = np.random.Generator(np.random.PCG64(shape[0]))
    y, x = np.mgrid[: shape[0], : shape[1]]
    target = 0.5 * np.sin(x / 5) * np.cos(y / 7) + 0.4 * (x > 20) - 0.2
    noise = 2 * rng.random(shape) - 1
    translated = {
        "equal": target,
        "noisy": target + 0.1 * noise,
        "noisier": target + 0.3 * noise,
        "shifted": np.roll(target, 3, axis=1),
        "brighter": target + 0.2,
        "flat": np.full(shape, -1.0),
    }
    translated = np.stack([translated[name] for name in DISTORTIONS])
    targets = np.broadcast_to(target, translated.shape)
    return np.clip(translated, -1, 1), targets


def colour_pairs() -> tuple[np.ndarray, np.ndarray]:
    """Two pairs [2, 64, 64, 3] in [-1, 1], each of three differing planes."""
    translated, target = pairs((64, 64))
    planes = [translated, target, target.transpose(0, 2, 1)]
    colour = np.stack(planes, axis=-1)[1:3]
    return colour, colour[..., ::-1] * 0.9


def package_distance(
    network: str,
    backbone: dict[str, np.ndarray],
    translated: np.ndarray,
    target: np.ndarray,
) -> np.ndarray:
    """Distances [B] by the package of images [B, H, W, 1 or 3]."""
    import torch

    model = _model(network)
    with torch.no_grad():
        names = dict(model.net.named_parameters())
        for name, parameter in names.items():
            # "slice1.0.weight" is torchvision's "features.0.weight".
            stored = f"features.{name.partition('.')[2]}"
            parameter.copy_(torch.from_numpy(backbone[stored]))
        assert len(names) == len(backbone)

        def tensor(images):
            images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
            images = torch.from_numpy(images.astype(np.float32))
            return images.expand(-1, 3, -1, -1)

        return model(tensor(translated), tensor(target)).numpy().reshape(-1)


def package_heads(network: str) -> dict[str, np.ndarray]:
    """The package's own heads, under the names of its state dict."""
    return {
        name: parameter.detach().numpy()
        for name, parameter in _model(network).named_parameters()
        if name.startswith("lin") and not name.startswith("lins")
    }


def _model(network: str):
    """The package's LPIPS with its own heads and untrained backbone."""
    import torch

    def stub(name: str, **members) -> None:
        try:
            __import__(name)
        except Exception:
            module = types.ModuleType(name)
            module.__dict__.update(members)
            sys.modules[name] = module

    def network_of(*layers):
        return types.SimpleNamespace(features=torch.nn.Sequential(*layers))

    def convolution(network, index, **options):
        row = next(r for r in CONVOLUTIONS[network] if r[0] == index)
        return torch.nn.Conv2d(row[2], row[1], row[3], **options)

    def alexnet(**_):
        pool, relu = torch.nn.MaxPool2d, torch.nn.ReLU
        return network_of(
            convolution("alex", 0, stride=4, padding=2),
            relu(),
            pool(3, 2),
            convolution("alex", 3, padding=2),
            relu(),
            pool(3, 2),
            convolution("alex", 6, padding=1),
            relu(),
            convolution("alex", 8, padding=1),
            relu(),
            convolution("alex", 10, padding=1),
            relu(),
        )

    def vgg16(**_):
        layers = []
        for index, *_ in CONVOLUTIONS["vgg"]:
            if len(layers) < index:
                layers.append(torch.nn.MaxPool2d(2, 2))
            layers.append(convolution("vgg", index, padding=1))
            layers.append(torch.nn.ReLU())
        return network_of(*layers)

    # The package imports these for training only, torchvision apart.
    models = types.SimpleNamespace(alexnet=alexnet, vgg16=vgg16)
    stub("torchvision", models=models)
    stub("tqdm", tqdm=None)
    stub("scipy", ndimage=None)
    stub("scipy.ndimage", zoom=None)
    import lpips

    return lpips.LPIPS(net=network, pnet_rand=True, verbose=False)


def main() -> None:
    # The heads are the package's; its licence asks to be passed on with them.
    licence = importlib.metadata.distribution("lpips").read_text("LICENSE")
    stored = {"licence_of_heads": np.array(licence)}
    for network in CONVOLUTIONS:
        backbone = random_backbone(network, BACKBONE_SEED)
        for name, head in package_heads(network).items():
            stored[f"{network}/{name}"] = head
        for shape in SHAPES:
            images = (grey[..., None] for grey in pairs(shape))
            stored[f"{network}/{shape[0]}x{shape[1]}"] = package_distance(
                network, backbone, *images
            )
        stored[f"{network}/colour"] = package_distance(
            network, backbone, *colour_pairs()
        )
    np.savez_compressed(pathlib.Path(__file__).with_name("lpips.npz"), **stored)


if __name__ == "__main__":
    main()
