"""The rows of tasks against Section 3.1 and physics."""

import dataclasses

import pytest

from medgan_tf import tasks


def test_the_papers_three_tasks_are_there_and_know_their_names():
    assert {"pet_ct", "mr_motion", "pet_denoise"} <= set(tasks.TASKS)
    assert all(name == task.name for name, task in tasks.TASKS.items())


@pytest.mark.parametrize(
    ("name", "source", "target", "simulator"),
    [
        ("pet_ct", "PET", "CT", None),
        ("mr_motion", "MR", "MR", "mr_motion"),
        ("pet_denoise", "PET", "PET", "low_count_pet"),
        ("mr_ct", "MR", "CT", None),
    ],
)
def test_a_task_goes_from_source_to_target(name, source, target, simulator):
    task = tasks.TASKS[name]
    assert (task.source.name, task.target.name) == (source, target)
    assert task.simulator == simulator


def test_resampling_is_to_a_millimetre_where_the_paper_resamples():
    assert tasks.TASKS["pet_ct"].voxel_size_mm == (1.0, 1.0, 1.0)
    assert tasks.TASKS["mr_motion"].voxel_size_mm == (1.0, 1.0, 1.0)
    assert tasks.TASKS["pet_denoise"].voxel_size_mm == (None, None, None)


def test_windows_hold_air_and_body_and_only_mr_has_none():
    for modality in (tasks.CT, tasks.PET):
        low, high = modality.window
        assert low <= modality.air < modality.body_above < high
    # Water is 0 HU and fat about -100 HU: both are body.
    assert tasks.CT.body_above < -100
    assert tasks.MR.window is None


def test_another_voxel_size_changes_only_the_voxel_size():
    task = tasks.TASKS["mr_ct"]
    assert tasks.adapted(task) == task
    other = tasks.adapted(task, voxel_size_mm=(2.0, 2.0, None))
    assert other.voxel_size_mm == (2.0, 2.0, None)
    assert dataclasses.replace(other, voxel_size_mm=task.voxel_size_mm) == task


def test_a_row_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        tasks.TASKS["mr_ct"].name = "other"


@pytest.mark.parametrize("name", list(tasks.TASKS))
def test_a_task_comes_back_from_json_and_a_changed_row_does_not(name):
    task = tasks.adapted(
        tasks.TASKS[name],
        voxel_size_mm=(2.0, 2.0, None),
        more_sources=["MR", "PET"],
        too_large="tile",
    )
    row = tasks.as_stored(task)
    assert tasks.from_stored(row) == tasks.restored(row) == task
    assert [m.name for m in task.sources[1:]] == ["MR", "PET"]
    row["target"]["air"] += 1
    assert tasks.restored(row) is None
    assert tasks.restored({"name": name}) is None
