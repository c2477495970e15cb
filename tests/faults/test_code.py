"""No line of ours runs what a file from a stranger holds."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted(
    path
    for folder in ("medgan_tf", "tools")
    for path in (ROOT / folder).rglob("*.py")
)

# What unpickles or runs; and the arguments that allow others to.
MODULES = {"pickle", "cPickle", "dill", "shelve", "marshal", "joblib"}
CALLS = {"eval", "exec", "load_model", "unsafe_load", "extractall"}
ARGUMENTS = {
    "allow_pickle": True,
    "safe_mode": False,
    "weights_only": False,
    "shell": True,
}
# For the class of the error that PyTorch raises for a file with code.
ALLOWED = {("convert_lpips.py", "pickle")}


def offences(tree):
    """Yields line and name of what may run what it reads."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            if name.split(".")[0] in MODULES:
                yield node.lineno, name
        if not isinstance(node, ast.Call):
            continue
        called = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if called in CALLS:
            yield node.lineno, called
        for keyword in node.keywords:
            value = getattr(keyword.value, "value", None)
            if ARGUMENTS.get(keyword.arg) is value is not None:
                yield node.lineno, keyword.arg
        # Its default was unsafe before PyTorch 2.6.
        if called == "load" and getattr(
            getattr(node.func, "value", None), "id", ""
        ) in ("torch", "np", "numpy"):
            given = {keyword.arg for keyword in node.keywords}
            if not given & ARGUMENTS.keys():
                yield node.lineno, "load"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nothing_is_unpickled_or_run(path):
    found = [
        f"{path}:{line}: {name}"
        for line, name in offences(ast.parse(path.read_text()))
        if (path.name, name) not in ALLOWED
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import load",
        "np.load(f, allow_pickle=True)",
        "np.load(f)",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "keras.saving.load_model(f, safe_mode=False)",
        "eval(text)",
        "subprocess.run(line, shell=True)",
    ],
)
def test_what_would_is_seen(line):
    assert list(offences(ast.parse(line)))


def test_what_is_safe_is_let_pass():
    safe = (
        "np.load(f, allow_pickle=False)\n"
        "torch.load(f, weights_only=True)\n"
        "json.load(f)\n"
        "re.compile(text)"
    )
    assert not list(offences(ast.parse(safe)))
