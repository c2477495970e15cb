"""LPIPS against the authors' own package, on the same random backbones."""

import importlib.util
import pathlib
import runpy

import numpy as np
import pytest

from medgan_tf import errors
from medgan_tf.evaluation import lpips

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
MAKER = runpy.run_path(str(GOLDEN / "make_lpips.py"))
UNIT = (-1.0, 1.0)

both = pytest.mark.parametrize("network", ["alex", "vgg"])


def heads(network):
    """The package's own, from the numbers it made."""
    with np.load(GOLDEN / "lpips.npz") as stored:
        return {
            name.partition("/")[2]: stored[name]
            for name in stored.files
            if name.startswith(f"{network}/lin")
        }


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights files of both networks."""
    folder = tmp_path_factory.mktemp("lpips")
    for network in lpips.NETWORKS:
        backbone = MAKER["random_backbone"](network, MAKER["BACKBONE_SEED"])
        lpips.save(
            folder / f"{network}.npz",
            network,
            backbone,
            heads(network),
            source="random",
        )
    return folder


@pytest.fixture(scope="module")
def models(files):
    return {
        network: lpips.load(files / f"{network}.npz")
        for network in lpips.NETWORKS
    }


@pytest.fixture
def stored():
    with np.load(GOLDEN / "lpips.npz") as arrays:
        yield arrays


@both
@pytest.mark.parametrize("shape", MAKER["SHAPES"], ids=str)
def test_it_equals_the_package(models, stored, network, shape):
    found = models[network].distance(*MAKER["pairs"](shape), data_range=UNIT)

    expected = stored[f"{network}/{shape[0]}x{shape[1]}"]
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=1e-5)
    assert found.dtype == np.float64


@both
def test_it_equals_the_package_in_colour(models, stored, network):
    found = models[network].distance(*MAKER["colour_pairs"](), data_range=UNIT)

    expected = stored[f"{network}/colour"]
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=1e-5)


@both
def test_it_equals_the_package_run_here(tmp_path, network):
    pytest.importorskip("torch")
    # Not imported, because it needs torchvision, which the maker replaces.
    if importlib.util.find_spec("lpips") is None:
        pytest.skip("the lpips package is not installed")
    backbone = MAKER["random_backbone"](network, 7)
    own_heads = MAKER["package_heads"](network)
    path = tmp_path / "weights.npz"
    lpips.save(path, network, backbone, own_heads, source="random")
    pair = [images[..., None] for images in MAKER["pairs"]((50, 81))]

    found = lpips.load(path).distance(*pair, data_range=UNIT)

    expected = MAKER["package_distance"](network, backbone, *pair)
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=1e-5)


@both
def test_equal_images_are_at_distance_0(models, network):
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (3, 37, 45))

    found = models[network].distance(images, images, data_range=UNIT)

    np.testing.assert_array_equal(found, [0, 0, 0])


@both
def test_it_is_the_same_both_ways(models, network):
    translated, target = MAKER["pairs"]((40, 40))

    there = models[network].distance(translated, target, data_range=UNIT)
    back = models[network].distance(target, translated, data_range=UNIT)

    np.testing.assert_allclose(there, back, atol=1e-8)


@both
def test_the_stronger_the_distortion_the_larger_the_distance(models, network):
    _, target = MAKER["pairs"]((64, 64))
    noise = np.random.default_rng(1).uniform(-1, 1, (64, 64))
    translated = np.stack([target[0] + s * noise for s in (0, 0.05, 0.1, 0.2)])

    found = models[network].distance(translated, target[:4], data_range=(-2, 2))

    assert (np.diff(found) > 0).all()


@both
def test_a_batch_equals_its_pairs_one_by_one(models, network):
    translated, target = MAKER["pairs"]((48, 33))

    together = models[network].distance(translated, target, data_range=UNIT)
    in_twos = models[network].distance(
        translated, target, data_range=UNIT, batch_size=4
    )
    one_by_one = [
        models[network].distance(x[None], y[None], data_range=UNIT)[0]
        for x, y in zip(translated, target, strict=True)
    ]

    np.testing.assert_allclose(together, one_by_one, atol=1e-7)
    np.testing.assert_allclose(together, in_twos, atol=1e-7)


@both
def test_grey_equals_three_equal_channels(models, network):
    grey = [images[1:3] for images in MAKER["pairs"]((40, 40))]

    expected = models[network].distance(*grey, data_range=UNIT)

    for channels in (1, 3):
        found = models[network].distance(
            *(np.stack([images] * channels, axis=-1) for images in grey),
            data_range=UNIT,
        )
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-1024, 3071)])
def test_any_range_is_stretched_to_that_of_the_network(models, low, high):
    pair = MAKER["pairs"]((40, 40))
    scaled = [(images + 1) / 2 * (high - low) + low for images in pair]

    found = models["alex"].distance(*scaled, data_range=(low, high))

    expected = models["alex"].distance(*pair, data_range=UNIT)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_8_bit_images_do_not_wrap_around(models):
    dark = np.zeros((1, 40, 40), np.uint8)
    bright = np.full((1, 40, 40), 255, np.uint8)

    found = models["alex"].distance(dark, bright, data_range=(0, 255))

    expected = models["alex"].distance(
        dark - 1.0, bright / 255.0, data_range=UNIT
    )
    np.testing.assert_allclose(found, expected, atol=1e-7)


@both
def test_the_smallest_image_leaves_one_pixel(models, network):
    least = {"alex": 31, "vgg": 16}[network]
    images = np.zeros((1, least, least))

    assert models[network].distance(images, images, data_range=UNIT) == [0]
    with pytest.raises(errors.UsageError, match=f"{least} x {least}"):
        models[network].distance(images[:, 1:], images[:, 1:], data_range=UNIT)


def test_a_range_is_never_guessed(models):
    images = np.zeros((1, 40, 40))

    with pytest.raises(TypeError, match="data_range"):
        models["alex"].distance(images, images)


@pytest.mark.parametrize(
    "data_range", [2, (1, -1), (0, 0), (0, np.inf), (np.nan, 1), (0, 1, 2)]
)
def test_a_range_that_is_none_is_refused(models, data_range):
    images = np.zeros((1, 40, 40))

    with pytest.raises(errors.UsageError, match="data_range"):
        models["alex"].distance(images, images, data_range=data_range)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.5, 300])
def test_values_outside_the_range_are_refused(models, bad):
    images = np.zeros((2, 40, 40))
    images[1, 3, 4] = bad

    with pytest.raises(errors.UsageError, match="values from"):
        models["alex"].distance(
            images, np.zeros_like(images), data_range=(0, 255)
        )


@pytest.mark.parametrize(
    ("translated", "target"),
    [
        ((1, 40, 40), (2, 40, 40)),
        ((1, 40, 40, 1), (1, 40, 40)),
        ((40, 40), (40, 40)),
        ((1, 40, 40, 2), (1, 40, 40, 2)),
        ((0, 40, 40), (0, 40, 40)),
    ],
)
def test_images_that_cannot_be_compared_are_refused(models, translated, target):
    with pytest.raises(errors.UsageError, match="one shape"):
        models["alex"].distance(
            np.zeros(translated), np.zeros(target), data_range=UNIT
        )


@both
def test_a_loaded_file_says_what_it_holds(models, network):
    model = models[network]

    assert (model.network, model.source) == (network, "random")
    assert (
        model.label
        == {
            "alex": "LPIPS (AlexNet, v0.1)",
            "vgg": "LPIPS (VGG-16, v0.1)",
        }[network]
    )


def refused(path):
    """The one line with which a file is refused."""
    with pytest.raises(errors.ArtefactError) as caught:
        lpips.load(path)
    message = str(caught.value)
    assert message.startswith("LPIPS is not computed: ")
    assert "convert_lpips.py" in message
    assert "\n" not in message
    return message


def test_without_weights_it_is_not_computed(tmp_path):
    assert "no weights file" in refused(tmp_path / "none.npz")
    assert "no weights file" in refused(tmp_path)


@pytest.mark.parametrize("kept", [0, 10, 4000, 5_000_000, 9_800_000])
def test_a_cut_file_is_refused(files, tmp_path, kept):
    whole = (files / "alex.npz").read_bytes()
    assert kept < len(whole)
    path = tmp_path / "cut.npz"
    path.write_bytes(whole[:kept])

    assert "not a readable" in refused(path)


def test_a_damaged_file_is_refused(files, tmp_path):
    content = bytearray((files / "alex.npz").read_bytes())
    content[len(content) // 2] ^= 1
    path = tmp_path / "damaged.npz"
    path.write_bytes(content)

    assert "not a readable" in refused(path)


def test_a_file_that_is_no_npz_is_refused(tmp_path):
    (tmp_path / "text.npz").write_text("weights\n")
    np.save(tmp_path / "one.npy", np.zeros(3))
    np.savez(tmp_path / "pickled.npz", network=np.array({"a": 1}, dtype=object))

    for name in ("text.npz", "one.npy", "pickled.npz"):
        assert "not a readable" in refused(tmp_path / name)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": "squeeze"}, "holds network squeeze"),
        ({"version": "0.0"}, "version 0.0"),
        ({"version": None}, "version nothing"),
        ({"network": "vgg"}, "does not hold the arrays of VGG-16"),
        ({"conv3__bias": None}, "see conv3__bias"),
        ({"conv4__bias": np.float32([0])}, "see conv4__bias"),
        ({"head2": np.zeros(191, np.float32)}, "head2 .* (191,)"),
        ({"head2": np.zeros(192)}, "float64"),
        ({"head1": np.full(64, np.nan, np.float32)}, "head1 .* not finite"),
    ],
)
def test_a_wrong_file_is_refused(files, tmp_path, changes, words):
    with np.load(files / "alex.npz") as stored:
        arrays = {**stored, **changes}
    path = tmp_path / "wrong.npz"
    np.savez(path, **{name: a for name, a in arrays.items() if a is not None})

    message = refused(path)

    assert all(word in message for word in words.split(" .* "))


def test_nothing_is_written_of_state_dicts_that_do_not_fit(tmp_path):
    backbone = MAKER["random_backbone"]("alex", 0)
    path = tmp_path / "weights.npz"

    for state, words in (
        ({**backbone, "features.3.weight": np.zeros(3)}, "features.3.weight"),
        ({"classifier.1.weight": np.zeros(3)}, "no features.0.weight"),
        (MAKER["random_backbone"]("vgg", 0), "conv0__kernel|features"),
    ):
        with pytest.raises(errors.ArtefactError, match=words):
            lpips.save(path, "alex", state, heads("alex"), source="")
    with pytest.raises(errors.ArtefactError, match="head1|head2"):
        lpips.save(path, "alex", backbone, heads("vgg"), source="")

    assert list(tmp_path.iterdir()) == []
