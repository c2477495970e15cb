"""The paper's own numbers, to be put beside those of other data.

Armanious et al. 2019, Tables 1 and 2: means over the validation slices of
their private data. The paper names no settings of its metrics, and other
patients give other numbers: neither can be reproduced, and a difference says
nothing of a program.
"""

from __future__ import annotations

METRICS = ("ssim", "psnr", "mse", "vif", "uqi", "lpips_alex")


def _row(*values: float) -> dict[str, float]:
    return dict(zip(METRICS, values, strict=True))


# Task -> method -> metric -> number. Whose network measured LPIPS the paper
# does not say; AlexNet is the usual one.
PUBLISHED = {
    "pet_ct": {
        "cgan": _row(0.8960, 23.65, 313.2, 0.3858, 0.9300, 0.2592),
        "perceptual": _row(0.9071, 24.20, 287.0, 0.4183, 0.9514, 0.2628),
        "style_content": _row(0.9046, 24.12, 282.8, 0.4105, 0.9435, 0.2439),
        "medgan_1g": _row(0.9121, 24.51, 271.8, 0.4348, 0.9569, 0.2142),
        "medgan": _row(0.9160, 24.62, 264.6, 0.4464, 0.9558, 0.2302),
        "pix2pix": _row(0.9017, 23.93, 299.2, 0.4024, 0.9519, 0.2537),
        "pan": _row(0.9027, 24.10, 292.2, 0.4084, 0.9190, 0.2582),
        "id_cgan": _row(0.9039, 24.13, 288.6, 0.4059, 0.9389, 0.2423),
        "fila_sgan": _row(0.9039, 24.08, 289.6, 0.4146, 0.9054, 0.2320),
    },
    "mr_motion": {
        "pix2pix": _row(0.8138, 23.79, 335.2, 0.3464, 0.5220, 0.2885),
        "pan": _row(0.8116, 23.91, 311.4, 0.3548, 0.5399, 0.2797),
        "id_cgan": _row(0.8214, 24.26, 289.8, 0.3685, 0.5855, 0.2747),
        "fila_sgan": _row(0.8114, 23.91, 318.7, 0.3431, 0.4957, 0.2570),
        "medgan": _row(0.8363, 24.18, 289.9, 0.3735, 0.6037, 0.2391),
    },
    "pet_denoise": {
        "pix2pix": _row(0.9707, 34.89, 37.20, 0.6068, 0.9440, 0.0379),
        "pan": _row(0.9713, 34.97, 38.76, 0.6068, 0.9431, 0.0348),
        "id_cgan": _row(0.9699, 34.28, 39.45, 0.6023, 0.9435, 0.0346),
        "fila_sgan": _row(0.9726, 35.05, 35.80, 0.6279, 0.9472, 0.0328),
        "medgan": _row(0.9729, 35.23, 33.54, 0.6168, 0.9443, 0.0292),
    },
}
