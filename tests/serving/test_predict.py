"""A translated volume lies on exactly the voxels of its source."""

import hashlib
import shutil
import threading

import numpy as np
import pytest
import tensorflow as tf

from medgan_tf import errors, sealed, tasks
from medgan_tf.data import volume
from medgan_tf.serving import predict

KEEP = (None, None, None)
# Axes of the file: posterior, superior, right; turned by 30 degrees about
# the second; 1.5 x 4 x 0.8 mm.
PERMUTED = np.array([[0, 0, 1], [-1, 0, 0], [0, 1, 0]])
COSINE, SINE = np.cos(np.pi / 6), np.sin(np.pi / 6)
TURN = np.array([[COSINE, -SINE, 0], [SINE, COSINE, 0], [0, 0, 1]])
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = TURN @ PERMUTED * (1.5, 4.0, 0.8)
OBLIQUE[:3, 3] = 12.3, -45.6, 78.9


def identity(source, source_scale=None):
    return {"translated": source}


def make(source=tasks.MR, target=tasks.MR, size=KEEP, translate=identity):
    task = tasks.Task("test", "", source, target, size)
    return predict.Model(None, translate, task, {})


def noise(shape, affine, high=1000.0):
    values = np.random.default_rng(0).uniform(0, high, shape)
    return volume.Volume(values.astype(np.float32), affine)


@pytest.mark.parametrize(
    ("modality", "high"), [(tasks.MR, 900.0), (tasks.PET, 19.0)]
)
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_the_identity_gives_the_source_back_to_the_bit(
    modality, high, batch_size
):
    source = noise((9, 5, 14), OBLIQUE, high)
    assert source.orientation == "PSR"
    result = predict.translate_volume(
        make(modality, modality), [source], batch_size=batch_size
    )
    np.testing.assert_array_equal(result.array, source.array)
    np.testing.assert_array_equal(result.affine, source.affine)
    assert result.array.dtype == np.float32


def test_on_another_grid_a_smooth_image_comes_back_on_its_own_voxels():
    x, y, z = np.indices((24, 6, 40))
    source = volume.Volume(
        np.float32(500 + 10 * x + 20 * y + 5 * z), OBLIQUE.copy()
    )
    result = predict.translate_volume(
        make(size=(1.0, 1.0, None)), [source], batch_size=2
    )
    np.testing.assert_array_equal(result.affine, source.affine)
    assert result.shape == source.shape
    # A plane is kept by smoothing and by linear interpolation but at edges.
    inside = slice(4, -4), slice(None), slice(4, -4)
    np.testing.assert_allclose(
        result.array[inside], source.array[inside], atol=0.5
    )


def test_slices_are_seen_as_on_a_radiological_display():
    seen = []

    def look(source, source_scale):
        seen.append(source.numpy())
        return {"translated": source}

    # Index axes of the file: right to left, anterior to posterior, up.
    array = np.zeros((4, 6, 2), np.float32)
    array[0, 0, 1] = 7  # Right, anterior, superior.
    source = volume.Volume(array, np.diag([-1.0, -1.0, 1.0, 1.0]))
    predict.translate_volume(make(translate=look), [source])
    assert seen[0].shape == (2, 256, 256, 1)
    assert np.argwhere(seen[0]).tolist() == [[1, 125, 126, 0]]


def test_every_slice_of_an_mr_volume_gets_the_scale_of_the_volume():
    scales = []

    def look(source, source_scale):
        scales.append(source_scale.numpy())
        return {"translated": source}

    # Of 1 .. 1000 the 99.9th percentile is, by linear interpolation,
    # 1 + 0.999 * 999 = 999.001.
    array = np.arange(1, 1001, dtype=np.float32).reshape(10, 20, 5)
    source = volume.Volume(array, np.diag([-1.0, -1.0, 1.0, 1.0]))
    predict.translate_volume(make(translate=look), [source], batch_size=2)
    assert [len(scale) for scale in scales] == [2, 2, 1]
    np.testing.assert_allclose(np.concatenate(scales), 999.001, rtol=1e-6)


def test_progress_is_told_of_every_batch():
    told = []

    def progress(batches):
        for batch in batches:
            told.append(batch)
            yield batch

    source = noise((4, 4, 5), np.diag([-1.0, -1.0, 1.0, 1.0]))
    result = predict.translate_volume(
        make(), [source], batch_size=2, progress=progress
    )
    assert len(told) == 3
    np.testing.assert_array_equal(result.array, source.array)


def test_the_next_volume_is_read_while_one_is_translated():
    """Each waits for the other two, so one after the other would hang."""
    together = threading.Barrier(3, timeout=20)
    written = {}

    def read(item):
        if item > 1:
            together.wait()
        return item

    def translate(item):
        if item == 1:
            together.wait()
        return -item

    def write(item, translated):
        if item == 0:
            together.wait()
        written[item] = translated

    predict.translate_many(range(3), read, translate, write)
    assert written == {0: 0, 1: -1, 2: -2}


def test_the_first_volume_that_fails_ends_it():
    done = []

    def read(item):
        if item == 2:
            raise errors.DataError("cannot be read")
        return item

    with pytest.raises(errors.DataError, match="cannot be read"):
        predict.translate_many(
            range(9), read, lambda item: item, lambda item, _: done.append(item)
        )
    assert done == [0, 1]


def test_a_broken_volume_is_told_and_the_rest_go_on():
    told, done = [], []

    def fail(number, kind=errors.DataError):
        def step(item, *_):
            if item == number:
                raise kind(f"cannot do {number}")
            return item

        return step

    predict.translate_many(
        range(9),
        fail(0, errors.ResourceError),
        fail(3),
        lambda item, result: (fail(8)(item), done.append(result)),
        lambda item, error: told.append((item, str(error))),
    )
    assert done == [1, 2, 4, 5, 6, 7]
    assert told == [(i, f"cannot do {i}") for i in (0, 3, 8)]


def test_a_full_disk_ends_it_for_all():
    def write(item, _):
        raise errors.ResourceError("no space")

    with pytest.raises(errors.ResourceError, match="no space"):
        predict.translate_many(range(3), int, int, write, failed=print)


def test_what_the_graph_refuses_is_told_in_a_line():
    @tf.function
    def refuse(source, source_scale):
        tf.debugging.assert_less(source, 0.0, "source is above 0")
        return {"translated": source}

    with pytest.raises(errors.DataError, match="refuses .*above 0") as told:
        predict.translate_volume(
            make(translate=refuse), [noise((4, 4, 2), np.eye(4))]
        )
    assert "\n" not in str(told.value)


def test_of_no_volumes_nothing_is_asked():
    predict.translate_many([], None, None, None)


def test_what_is_wider_than_a_slice_is_air_of_the_target_there():
    array = np.zeros((300, 4, 2), np.float32)
    array[100:200] = 5
    source = volume.Volume(array, np.diag([-1.0, -1.0, 1.0, 1.0]))
    result = predict.translate_volume(make(tasks.PET, tasks.CT), [source])
    # 256 columns round the body's middle at 150: 22 to 277.
    np.testing.assert_array_equal(result.array[22:278], array[22:278])
    assert (result.array[:22] == -1000).all()
    assert (result.array[278:] == -1000).all()


def test_an_empty_mr_volume_is_refused():
    source = volume.Volume(np.zeros((4, 4, 2), np.float32), np.eye(4))
    with pytest.raises(errors.DataError, match="MR volume is empty"):
        predict.translate_volume(make(), [source])


class Shift(tf.Module):
    """Stands for a network: adds a number that is a variable."""

    def __init__(self, number):
        super().__init__()
        self.number = tf.Variable(number)

    @tf.function(input_signature=[tf.TensorSpec([None, 256, 256, 1])])
    def __call__(self, source):
        return {"translated": source + self.number}


ROW = tasks.as_stored(
    tasks.Task("test", "", tasks.PET, tasks.MR, (1.0, 1.0, None))
)
INFO = {"task_row": ROW}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Versions 9 and 10, which add 9 and 10, beside what is no version."""
    folder = tmp_path_factory.mktemp("models")
    for version in (9, 10):
        module = Shift(float(version))
        tf.saved_model.save(module, str(folder / str(version)))
        write_info(folder / str(version), sealed.dumps(INFO))
    (folder / ".11.incomplete-0123abcd").mkdir()
    (folder / "notes.txt").touch()
    return folder


def write_info(version, text):
    path = version / "assets.extra" / "medgan.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("folder", "number"), [(".", 10), ("9", 9), ("10", 10)]
)
def test_the_highest_version_is_loaded_or_the_one_given(models, folder, number):
    model = predict.load(models / folder)
    image = tf.zeros([1, 256, 256, 1])
    assert (model.translate(source=image)["translated"] == number).numpy().all()


def test_medgan_json_gives_back_the_modalities_and_the_grid(models):
    model = predict.load(models)
    assert (model.task.source, model.task.target) == (tasks.PET, tasks.MR)
    assert model.task.voxel_size_mm == (1.0, 1.0, None)
    assert model.info == INFO


def test_a_body_wider_than_a_slice_is_tiled_whatever_its_training(models):
    """Whoever has a model cannot prepare its training anew."""
    assert ROW["too_large"] == "refuse"
    array = np.full((300, 4, 2), 5, np.float32)
    source = volume.Volume(array, np.diag([-1.0, -1.0, 1.0, 1.0]))
    result = predict.translate_volume(predict.load(models / "9"), [source])
    np.testing.assert_allclose(result.array, array + 9, rtol=1e-6)


def test_a_graph_with_a_flipped_bit_is_refused(models, tmp_path):
    """TensorFlow reads it, and gives other numbers."""
    version = shutil.copytree(models / "9", tmp_path / "9")
    path = version / "saved_model.pb"
    whole = path.read_bytes()
    facts = {**INFO, "graph_sha256": hashlib.sha256(whole).hexdigest()}
    write_info(version, sealed.dumps(facts))
    predict.load(version)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(errors.ArtefactError, match="another SHA-256"):
        predict.load(version)


def test_a_model_for_other_programs_is_told(models, tmp_path):
    (tmp_path / "1").mkdir()
    write_info(tmp_path / "1", sealed.dumps({**INFO, "format": "onnx"}))
    with pytest.raises(errors.ArtefactError, match="is onnx, for other prog"):
        predict.load(tmp_path)


@pytest.mark.parametrize("name", ["", "nowhere", "file", "x" * 300])
def test_a_folder_without_a_model_is_refused(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(errors.ArtefactError, match="holds no exported model"):
        predict.load(tmp_path / name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        sealed.dumps(INFO)[:40],
        sealed.dumps(INFO).replace("1.0", "3.0"),
        "[]",
        "{}",
        sealed.dumps({"task_row": {**ROW, "source": None}}),
        sealed.dumps({"task_row": {**ROW, "target": {"name": "CT"}}}),
        sealed.dumps(
            {"task_row": {**ROW, "source": {**ROW["source"], "a": "red"}}}
        ),
        sealed.dumps(
            {"task_row": {**ROW, "source": {**ROW["source"], "window": 20}}}
        ),
        sealed.dumps({"task_row": {**ROW, "voxel_size_mm": 1.0}}),
        sealed.dumps({"task_row": {"name": "test"}}),
        b"\xff\xfe",
    ],
)
def test_a_medgan_json_that_was_changed_is_refused(tmp_path, text):
    (tmp_path / "saved_model.pb").touch()
    write_info(tmp_path, "")
    path = tmp_path / "assets.extra" / "medgan.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(errors.ArtefactError, match="cannot be loaded") as told:
        predict.load(tmp_path)
    assert "\n" not in str(told.value)


def test_a_model_without_medgan_json_is_refused(tmp_path):
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(errors.ArtefactError, match="medgan.json"):
        predict.load(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "saved_model.pb",
        "variables/variables.index",
        "variables/variables.data-00000-of-00001",
    ],
)
def test_a_model_that_was_cut_is_refused(models, tmp_path, name):
    shutil.copytree(models / "9", tmp_path / "9")
    path = tmp_path / "9" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(errors.ArtefactError, match="cannot be loaded") as told:
        predict.load(tmp_path)
    assert "\n" not in str(told.value)


def test_each_scaled_channel_gets_its_own_volume_s_scale():
    seen = []

    def look(source, source_scale):
        seen.append((source.numpy(), source_scale.numpy()))
        return {"translated": source[..., :1]}

    task = tasks.adapted(
        tasks.TASKS["mr_ct"],
        voxel_size_mm=KEEP,
        more_sources=["PET", "MR"],
    )
    model = predict.Model(None, look, task, {})
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    sources = [
        volume.Volume(np.full((4, 4, 2), value, np.float32), affine)
        for value in (100.0, 5.0, 300.0)
    ]
    predict.translate_volume(model, sources)
    ((slices, scales),) = seen
    assert slices.shape == (2, 256, 256, 3)
    assert slices[0, 128, 128].tolist() == [100.0, 5.0, 300.0]
    assert scales.tolist() == [[100.0, 300.0]] * 2
    with pytest.raises(errors.DataError, match="2 source images, expected 3"):
        predict.translate_volume(model, sources[:2])


def test_what_a_check_in_the_graph_says_is_told_without_its_nodes():
    @tf.function
    def checked(image):
        return tf.debugging.assert_all_finite(image, "source is not finite")

    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        checked(tf.constant([np.nan]))
    words = predict.in_words(caught.value.message)
    assert words.startswith("source is not finite")
    assert "node" not in words.lower()
