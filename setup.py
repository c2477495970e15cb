"""Makes `medgan_tf` and its commands installable."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
# Read, not imported: the version is needed before NumPy is there.
VERSION = re.search(
    r'^__version__ = "(.+)"$',
    (ROOT / "medgan_tf" / "__init__.py").read_text(encoding="utf-8"),
    re.MULTILINE,
).group(1)

TENSORFLOW = ">=2.21,<2.22"
COMMANDS = (
    "prepare_data",
    "verify_data",
    "train",
    "evaluate",
    "export",
    "predict",
    "mumap",
    "serve",
    "reproduce",
    "reader_study",
    "benchmark",
    "convert_lpips",
)

# Extras that the tests need too. Versions below the ONNX ones were never tried.
SERVE = ["kserve>=0.21,<0.22"]
STUDY = ["starlette", "uvicorn", "jinja2>=3.1.6"]
ONNX = ["tf2onnx>=1.17", "onnx>=1.21", "onnxruntime"]

setuptools.setup(
    name="medgan_tf",
    version=VERSION,
    description="MedGAN: medical image translation using GANs, in TensorFlow",
    author="The medgan_tf authors",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=[
        *setuptools.find_packages(include=["medgan_tf", "medgan_tf.*"]),
        "medgan_tf.tools",
    ],
    # Installed, the scripts are a package of their own; in a checkout they
    # stay where a reader looks for them.
    package_dir={"medgan_tf.tools": "tools"},
    # The pages that serve.py and reader_study.py show.
    package_data={
        "medgan_tf.serving": ["static/*"],
        "medgan_tf.reader_study": ["static/*", "templates/*"],
    },
    entry_points={
        "console_scripts": [
            f"{name}.py = medgan_tf.tools.{name}:run" for name in COMMANDS
        ]
    },
    install_requires=[
        f"tensorflow{TENSORFLOW}",
        # Older versions open a model file unsafely (CVE-2026-1462 and
        # CVE-2026-12479). Keras left Python 3.10 at 3.13; the same repairs
        # were carried over to 3.12.4.
        "keras>=3.15.1,<3.16; python_version >= '3.11'",
        "keras>=3.12.4,<3.13; python_version < '3.11'",
        # TensorFlow no longer brings it, yet the summaries need it.
        "tensorboard>=2.21,<2.22",
        "numpy>=1.26,<2.5",
        # Its bootstrap takes `rng` since then.
        "scipy>=1.15",
        "nibabel",
        # Older versions open files outside the folder of a DICOMDIR
        # (CVE-2026-32711).
        "pydicom>=3.0.2",
        "SimpleITK",
        "absl-py",
        "tqdm",
        "matplotlib",
    ],
    extras_require={
        "beam": ["apache-beam>=2.77", "google-crc32c"],
        "onnx": ONNX,
        "serve": SERVE,
        "study": STUDY,
        "gpu": [f"tensorflow[and-cuda]{TENSORFLOW}"],
        "dev": [
            *("pytest", "pytest-timeout", "pytest-xdist"),
            *("scikit-image", "sewar", "ruff"),
            # The stubs of TensorFlow Serving's own clients.
            f"tensorflow-serving-api{TENSORFLOW}",
            *SERVE,
            *STUDY,
            *ONNX,
        ],
    },
)
