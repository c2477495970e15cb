"""What is exported is the generator that was trained, in physical units."""

import dataclasses
import json
import resource

import numpy as np
import pytest
import tensorflow as tf

from medgan_tf import errors, methods, tasks
from medgan_tf.data import preprocess, volume
from medgan_tf.serving import export, formats, model_card, predict
from medgan_tf.training import checkpoint
from medgan_tf.training import config as configs
from medgan_tf.training import step as steps

# All wait for a checkpoint, most for two exports.
pytestmark = pytest.mark.slow

TINY = methods.override(methods.METHODS["pix2pix"], ["ngf=4", "ndf=4"])
PET_CT = tasks.TASKS["pet_ct"]
MR_MOTION = tasks.adapted(
    tasks.TASKS["mr_motion"], voxel_size_mm=(1.0, 1.0, None)
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose best checkpoint, of step 6, makes images of all values."""
    run = checkpoint.Run(
        tmp_path_factory.mktemp("serving") / "run",
        "pet_ct",
        TINY,
        configs.TrainConfig(),
        {
            "fingerprint": "f" * 64,
            "is_simulated": True,
            "source_channels": 1,
            "target_channels": 1,
        },
        {"medgan_tf": "1.2.3"},
    )
    run.save()
    trainer = steps.Trainer(TINY, seed=1)
    # As drawn, its images are nearly constant: any scaling would pass.
    last = trainer.generator.blocks[0].last
    last.kernel.assign(10 * last.kernel)
    checkpoint.Checkpoints(run, trainer).save_if_best(6, "ssim", 0.5, True)
    return run


@pytest.fixture(scope="module")
def generator(run):
    return checkpoint.load_generator(run)[0]


@pytest.fixture(scope="module")
def pet_ct(run):
    output_dir = run.workdir.parent / "pet_ct"
    return export.export(run, PET_CT, output_dir, version=3)


@pytest.fixture(scope="module")
def mr_motion(run):
    output_dir = run.workdir.parent / "mr_motion"
    return export.export(run, MR_MOTION, output_dir)


def slices(highest):
    """Two slices with values from below 0 to a little above `highest`."""
    rng = np.random.default_rng(0)
    scale = np.reshape(highest, [-1, 1, 1, 1])
    values = rng.uniform(-0.05, 1.1, [2, 256, 256, 1]) * scale
    return values.astype(np.float32)


def by_hand(generator, images, source_window, target_window):
    return preprocess.denormalise(
        generator(preprocess.normalise(images, source_window)), target_window
    )


def test_a_fixed_window_model_takes_suv_and_gives_hu(pet_ct, generator):
    images = slices(20.0)
    model = predict.load(pet_ct)
    translated = model.translate(source=tf.constant(images))["translated"]
    expected = by_hand(generator, images, (0, 20), (-1000, 2000))
    assert np.ptp(expected) > 1000
    # Rounding, enlarged by the network: how much depends on the processor.
    np.testing.assert_allclose(translated, expected, rtol=0, atol=3000 * 1e-5)


def test_an_mr_model_scales_each_slice_by_its_own_volume(mr_motion, generator):
    scales = 300.0, 4000.0
    images = slices(scales)
    translated = predict.load(mr_motion).translate(
        source=tf.constant(images), source_scale=tf.constant(scales)
    )["translated"]
    for one, result, scale in zip(images, translated, scales, strict=True):
        window = 0, scale
        expected = by_hand(generator, one[None], window, window)[0]
        assert np.ptp(expected) > scale / 3
        # Rounding of the scale, enlarged by the network; one unit is 3e-3.
        np.testing.assert_allclose(result, expected, rtol=0, atol=scale * 1e-5)


@pytest.mark.parametrize("is_mr", [False, True], ids=["pet_ct", "mr_motion"])
def test_in_float32_the_export_is_bit_for_bit_the_generator(
    pet_ct, mr_motion, generator, is_mr
):
    """The way of evaluation: NumPy's windows, the generator as a graph."""
    graph = tf.function(generator)
    if is_mr:
        scale = np.float32([437.7])
        inputs = {"source": slices(scale)[:1], "source_scale": scale}
        windows = 2 * [(0.0, float(scale[0]))]
    else:
        inputs = {"source": slices(20.0)}
        windows = [(0, 20), (-1000, 2000)]
    model = predict.load(mr_motion if is_mr else pet_ct)
    translated = model.translate(
        **{name: tf.constant(value) for name, value in inputs.items()}
    )["translated"]
    normalised = preprocess.normalise(inputs["source"], windows[0])
    expected = graph(tf.constant(normalised)).numpy()
    np.testing.assert_array_equal(
        translated, preprocess.denormalise(expected, windows[1])
    )


def test_no_value_is_beyond_the_window_of_the_target(pet_ct, mr_motion):
    rng = np.random.default_rng(0)
    wild = rng.normal(0, 1e6, [1, 256, 256, 1]).astype(np.float32)
    hu = predict.load(pet_ct).translate(source=tf.constant(wild))
    assert -1000 <= hu["translated"].numpy().min()
    assert hu["translated"].numpy().max() <= 2000
    mr = (
        predict.load(mr_motion)
        .translate(source=tf.constant(wild), source_scale=tf.constant([0.3]))[
            "translated"
        ]
        .numpy()
    )
    assert 0 <= mr.min() < mr.max() <= np.float32(0.3)


def test_the_signature_names_its_inputs_and_its_output(pet_ct, mr_motion):
    image = tf.TensorShape([None, 256, 256, 1])
    for folder, scale in (
        (pet_ct, {}),
        (mr_motion, {"source_scale": tf.TensorShape([None])}),
    ):
        signatures = tf.saved_model.load(str(folder)).signatures
        signature = signatures["serving_default"]
        _, inputs = signature.structured_input_signature
        assert {n: s.shape for n, s in inputs.items()} == {
            "source": image,
            **scale,
        }
        assert {s.dtype for s in inputs.values()} == {tf.float32}
        outputs = signature.structured_outputs
        assert {n: s.shape for n, s in outputs.items()} == {"translated": image}
        assert outputs["translated"].dtype == tf.float32


@pytest.mark.parametrize(
    "change",
    [
        {"source": np.nan},
        {"source": np.inf},
        {"source_scale": 0.0},
        {"source_scale": -1.0},
        {"source_scale": np.nan},
    ],
    ids=str,
)
def test_the_graph_refuses_values_that_are_no_image(mr_motion, change):
    inputs = {"source": slices(300.0)[:1], "source_scale": np.float32([300])}
    for name, value in change.items():
        inputs[name].flat[0] = value
    model = predict.load(mr_motion)
    with pytest.raises(tf.errors.InvalidArgumentError):
        model.translate(**{n: tf.constant(v) for n, v in inputs.items()})


@pytest.mark.parametrize(
    ("shape", "scales"),
    [((0, 256, 256, 1), []), ((2, 256, 256, 1), [1.0] * 4)],
    ids=["no slice", "two scales for each slice"],
)
def test_the_graph_refuses_another_number_of_scales(mr_motion, shape, scales):
    model = predict.load(mr_motion)
    with pytest.raises(tf.errors.InvalidArgumentError, match="source"):
        model.translate(
            source=tf.zeros(shape), source_scale=tf.constant(scales, tf.float32)
        )


@pytest.mark.parametrize("shape", [(1, 128, 128, 1), (1, 256, 256, 3)])
def test_the_graph_refuses_images_of_another_size(pet_ct, shape):
    model = predict.load(pet_ct)
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
        model.translate(source=tf.zeros(shape))


def test_medgan_json_says_what_the_model_is_and_is_not_for(pet_ct):
    info = json.loads((pet_ct / "assets.extra/medgan.json").read_text())
    assert info["task"] == "pet_ct"
    assert info["task_row"]["source"]["window"] == [0, 20]
    assert info["task_row"]["source"]["unit"] == "SUV"
    assert info["task_row"]["target"]["window"] == [-1000, 2000]
    assert info["task_row"]["target"]["unit"] == "HU"
    assert info["task_row"]["voxel_size_mm"] == [1, 1, 1]
    assert info["slice_size"] == 256
    assert info["method"]["ngf"] == 4
    assert info["discriminator_steps"] == 6
    assert info["format"] == "savedmodel"
    assert info["precision"] == "float32"
    assert list(info["signatures"]) == [
        "serving_default",
        "serve_png_bytes",
        "serve_examples",
    ]
    assert info["signatures"]["serving_default"] == {
        "inputs": {
            "source": {"dtype": "float32", "shape": [None, 256, 256, 1]}
        },
        "outputs": {
            "translated": {"dtype": "float32", "shape": [None, 256, 256, 1]}
        },
    }
    assert info["data_fingerprint"] == "f" * 64
    assert info["trained_on_simulated_images"] is True
    assert info["versions"] == {"medgan_tf": "1.2.3"}
    assert info["intended_use"].startswith("Research only")
    assert "Not for diagnosis" in info["intended_use"]


def test_a_loaded_model_knows_its_modalities_and_its_grid(pet_ct, mr_motion):
    model = predict.load(pet_ct)
    assert (model.task.source, model.task.target) == (tasks.PET, tasks.CT)
    assert model.task.voxel_size_mm == (1.0, 1.0, 1.0)
    model = predict.load(mr_motion)
    assert (model.task.source, model.task.target) == (tasks.MR, tasks.MR)
    assert model.task.voxel_size_mm == (1.0, 1.0, None)


def test_a_volume_goes_through_an_exported_model(mr_motion, generator):
    rng = np.random.default_rng(0)
    array = rng.uniform(0, 300, (20, 30, 3)).astype(np.float32)
    source = volume.Volume(array, np.diag([-1.0, -1.0, 5.0, 1.0]))
    result = predict.translate_volume(
        predict.load(mr_motion), [source], batch_size=2
    )
    # 20 x 30 pixels lie in the middle of 256 x 256, columns first.
    window = 0, np.percentile(array[array > 0], 99.9)
    padded = np.zeros([3, 256, 256, 1], np.float32)
    padded[:, 113:143, 118:138, 0] = array.transpose(2, 1, 0)
    expected = by_hand(generator, padded, window, window)
    expected = expected[:, 113:143, 118:138, 0].transpose(2, 1, 0)
    np.testing.assert_allclose(result.array, expected, rtol=0, atol=3e-3)


def test_weights_are_stored_once(pet_ct, generator):
    stored = sum(f.stat().st_size for f in (pet_ct / "variables").iterdir())
    assert stored < 1.1 * 4 * generator.count_params()


def test_a_card_for_people_lies_beside_the_model(pet_ct):
    text = (pet_ct / model_card.FILE).read_text()
    assert "Not for diagnosis" in text
    assert "Not evaluated on test patients." in text
    assert "| target | CT | HU | -1000 to 2000 |" in text
    assert "- input `png_bytes`: string [B]" in text


def test_noise_of_a_method_is_exported_too(run, tmp_path):
    """Its random state is a variable that no layer lists as a weight."""
    noisy = dataclasses.replace(
        run,
        workdir=tmp_path / "run",
        method=methods.override(TINY, ["dropout=0.5"]),
    )
    trainer = steps.Trainer(noisy.method, seed=1)
    trainer._step.assign(1)
    checkpoint.Checkpoints(noisy, trainer).save(1)
    folder = export.export(noisy, PET_CT, tmp_path / "model", which="last")
    source = tf.constant(slices(20.0)[:1])
    model = predict.load(folder)
    first, second = (
        model.translate(source=source)["translated"].numpy() for _ in range(2)
    )
    assert (first != second).any()
    with pytest.raises(errors.UsageError, match="draws noise"):
        export.export(
            noisy,
            PET_CT,
            tmp_path / "lite",
            which="last",
            write=formats.write_tflite,
        )
    assert list((tmp_path / "lite").iterdir()) == []


def test_versions_of_two_formats_do_not_share_a_folder(run, pet_ct):
    def write(generator, task, channels, folder, model):
        (folder / "model.onnx").touch()
        return {"format": "onnx", "signatures": {}}

    with pytest.raises(errors.ResourceError, match="of another format"):
        export.export(run, PET_CT, pet_ct.parent, version=4, write=write)
    assert [path.name for path in pet_ct.parent.iterdir()] == ["3"]


def test_a_version_that_exists_is_refused_and_left_alone(run, pet_ct):
    before = (pet_ct / "saved_model.pb").read_bytes()
    with pytest.raises(errors.ResourceError, match="3 exists; choose another"):
        export.export(run, PET_CT, pet_ct.parent, version=3)
    assert (pet_ct / "saved_model.pb").read_bytes() == before
    assert [path.name for path in pet_ct.parent.iterdir()] == ["3"]


def test_a_full_disk_is_told_and_leaves_nothing_half_written(run, tmp_path):
    """Files of at most 100 kB stand for the full disk; the weights are more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(errors.ResourceError, match="cannot be written"):
            export.export(run, PET_CT, tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "model").iterdir()) == []


@pytest.mark.parametrize("name", ["file/model", "x" * 300])
def test_a_folder_that_cannot_be_made_is_refused(run, tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(errors.ResourceError, match="cannot be written"):
        export.export(run, PET_CT, tmp_path / name)


def test_a_run_without_a_checkpoint_is_refused(run, tmp_path):
    empty = dataclasses.replace(run, workdir=tmp_path / "run")
    with pytest.raises(errors.ArtefactError, match="holds no best checkpoint"):
        export.export(empty, PET_CT, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_in_bfloat16_the_model_is_half_as_large_and_gives_nearly_the_same(
    run, pet_ct
):
    half = export.export(
        run, PET_CT, run.workdir.parent / "half", precision="bfloat16"
    )
    sizes = [
        sum(file.stat().st_size for file in (f / "variables").iterdir())
        for f in (pet_ct, half)
    ]
    assert sizes[1] < 0.55 * sizes[0]
    rows = np.linspace(0, 20, 256 * 256, dtype=np.float32)
    source = tf.constant(rows.reshape(1, 256, 256, 1))
    whole, rounded = (
        predict.load(f).translate(source=source)["translated"].numpy()
        for f in (pet_ct, half)
    )
    # Of a window of 3000 HU.
    assert np.abs(whole - rounded).mean() < 15
