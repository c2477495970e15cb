"""Makes the weights file that LPIPS needs, of the official ones.

Two files per network, fetched beforehand; nothing is downloaded here. Each
is compared with its official SHA-256 before it is opened.
  alex: alexnet-owt-7be5be79.pth (torchvision's AlexNet; 233 MB, from
        https://download.pytorch.org/models/) and weights/v0.1/alex.pth of
        the lpips package;
  vgg:  vgg16-397923af.pth (torchvision's VGG-16; 528 MB, from the same
        place) and weights/v0.1/vgg.pth of the lpips package.
"pip download --no-deps lpips==0.1.4" fetches the package; its .whl is a zip.

PyTorch is needed here once, to read the .pth files, and nowhere else; its
CPU version will do.

Example:
  convert_lpips.py --network=alex --backbone=alexnet-owt-7be5be79.pth
      --heads=lpips/weights/v0.1/alex.pth --output=lpips_alex.npz
"""

from __future__ import annotations

import hashlib
import pathlib
import pickle

import numpy as np
from absl import flags

from medgan_tf import errors
from medgan_tf.tools import _run

_NETWORK = flags.DEFINE_enum(
    "network",
    None,
    ["alex", "vgg"],
    "AlexNet, which the authors recommend for comparing, or VGG-16.",
    required=True,
)
_BACKBONE = flags.DEFINE_string(
    "backbone", None, "torchvision's weights (.pth).", required=True
)
_HEADS = flags.DEFINE_string(
    "heads", None, "The lpips package's v0.1 weights (.pth).", required=True
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "The .npz to write.", required=True
)

# File name and SHA-256 of torchvision's weights (the names bear the first
# eight digits) and of those in the wheel of lpips 0.1.4.
OFFICIAL = {
    "alex": (
        (
            "alexnet-owt-7be5be79.pth",
            "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        ),
        (
            "lpips/weights/v0.1/alex.pth",
            "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        ),
    ),
    "vgg": (
        (
            "vgg16-397923af.pth",
            "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        ),
        (
            "lpips/weights/v0.1/vgg.pth",
            "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        ),
    ),
}


def main(_: list[str]) -> None:
    official = OFFICIAL[_NETWORK.value]
    given = (_BACKBONE.value, _HEADS.value)
    output = pathlib.Path(_OUTPUT.value)
    if output.suffix != ".npz" or not output.parent.is_dir():
        raise errors.UsageError(
            f"--output: expected a .npz in an existing folder, got {output}"
        )
    for path, (name, digest) in zip(given, official, strict=True):
        check(path, name, digest)
    backbone, heads = (read_state_dict(path) for path in given)

    _run.import_tensorflow()
    from medgan_tf.evaluation import lpips

    lpips.save(
        output,
        _NETWORK.value,
        backbone,
        heads,
        source="; ".join(f"{name} SHA-256 {sha}" for name, sha in official),
    )
    print(f"{lpips.load(output).label}: {output}")


def check(path: str, name: str, digest: str) -> None:
    """Raises an error unless the file is the official one, bit by bit."""
    if not pathlib.Path(path).is_file():
        raise errors.ArtefactError(f"{path}: no such file, expected {name}.")
    sha256 = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            sha256.update(chunk)
    found = sha256.hexdigest()
    if found != digest:
        raise errors.ArtefactError(
            f"{path}: found SHA-256 {found}, expected {digest} of {name}; "
            "get the file again, or choose the other --network."
        )


def read_state_dict(path: str) -> dict[str, np.ndarray]:
    """Reads the tensors of a .pth file, without running code from it."""
    try:
        import torch
    except ImportError as error:
        raise errors.ResourceError(
            "reading .pth files needs PyTorch 2 or newer: pip install torch "
            "(any CPU version does; it is needed for this once)."
        ) from error
    try:
        # Older files were saved on a GPU.
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {name: t.detach().numpy() for name, t in state.items()}
    except (
        OSError,
        EOFError,
        RuntimeError,
        AttributeError,
        pickle.UnpicklingError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else "cut short"
        raise errors.ArtefactError(
            f"{path} is not a readable state dict ({reason}); get it again."
        ) from error


def run() -> None:
    _run.run(main)


if __name__ == "__main__":
    run()
