"""A Beam pipeline makes the same records to the last byte."""

import functools
import hashlib

import pytest

from medgan_tf import tasks
from medgan_tf.data import phantom, prepare

pytest.importorskip(
    "apache_beam", reason="needs the extra `beam`: make test-beam installs it"
)
# Only where Beam is, as in the script.
from medgan_tf.data import prepare_beam  # noqa: E402


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_direct_runner_makes_the_same_records(tmp_path, monkeypatch):
    monkeypatch.setattr(
        phantom,
        "patient",
        functools.partial(
            phantom.patient, shape=(24, 24, 4), spacing=(9.0, 9.0, 12.0)
        ),
    )
    task = tasks.adapted(tasks.TASKS["mr_ct"], voxel_size_mm=(None, None, None))
    here = prepare.prepare_phantoms(task, 4, tmp_path / "here")

    def elsewhere(function, items):
        prepare_beam.apply_to_all(
            function, items, runner="DirectRunner", options=[]
        )
        work = tmp_path / "beam.incomplete"
        assert len(list(work.glob("*.tfrecord"))) == len(items)

    by_beam = prepare.prepare_phantoms(
        task, 4, tmp_path / "beam", elsewhere=elsewhere
    )

    def contents(folder):
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.iterdir()
        }

    assert contents(by_beam.folder) == contents(here.folder)
