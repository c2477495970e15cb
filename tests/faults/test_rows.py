"""Which test holds for which fault: the table of all that may go wrong.

A row is a number, what goes wrong, and the tests as file::name; or, where
there is none, the reason. The numbers have gaps where nothing here can fail so.
"""

import ast
import functools
import pathlib
from typing import NamedTuple

import pytest

TESTS = pathlib.Path(__file__).parents[1]
IMAGES = "faults/test_images.py::test_a_damaged_image_is_told_and_refused"
RECORDS = (
    "faults/test_records.py::"
    "test_damaged_records_are_refused_before_the_first_step"
)
CHECKPOINT = "training/test_checkpoint.py::"
LOOP = "training/test_loop.py::"
DICOM = "data/test_dicom.py::"
ROOM = "faults/test_room.py::"
CLUSTER = "training/test_cluster.py::"
KILLS = "faults/test_kills.py::"


class Row(NamedTuple):
    """What goes wrong, the tests, or why there are none."""

    fault: str
    tests: tuple[str, ...] = ()
    left_out: str = ""


ROWS = {
    1: Row(
        "killed during a save",
        (
            f"{KILLS}test_twenty_kills_during_saves_lose_nothing_that_was_saved",
            f"{CHECKPOINT}test_what_a_save_left_that_was_broken_off_is_removed",
        ),
    ),
    2: Row(
        "killed at any step",
        (
            f"{KILLS}test_a_run_that_was_killed_at_any_step_ends_bit_by_bit_"
            "the_same",
        ),
    ),
    3: Row(
        "a random state that is not saved",
        (
            f"{LOOP}test_the_state_holds_weights_slots_projection_and_dropout",
            f"{CHECKPOINT}test_all_that_training_changes_comes_back",
        ),
    ),
    4: Row(
        "the data go on elsewhere",
        (
            "data/test_pipeline.py::"
            "test_a_resumed_stream_is_the_tail_of_the_whole_one",
            "data/test_pipeline.py::"
            "test_each_slice_comes_exactly_once_in_an_epoch",
        ),
    ),
    5: Row(
        "the list of checkpoints is missing, garbled or cut",
        (
            f"{CHECKPOINT}test_the_list_of_checkpoints_is_made_anew_from_what_"
            "is_there",
            f"{CHECKPOINT}test_where_all_are_damaged_nothing_starts_at_step_0",
        ),
    ),
    6: Row(
        "the newest checkpoint is damaged",
        (
            f"{CHECKPOINT}test_a_damaged_checkpoint_is_said_renamed_and_the_"
            "one_before_used",
        ),
    ),
    7: Row(
        "the list of checkpoints points elsewhere",
        (
            f"{CHECKPOINT}test_the_list_of_checkpoints_is_made_anew_from_what_"
            "is_there",
        ),
    ),
    8: Row(
        "a checkpoint of another network or run",
        (
            f"{CHECKPOINT}test_a_checkpoint_of_another_network_is_left_alone",
            f"{CHECKPOINT}test_another_run_s_folder_is_refused_by_the_"
            "difference",
        ),
    ),
    9: Row(
        "the disk is full during a save",
        (
            f"{ROOM}test_a_disk_that_fills_up_during_a_save_costs_that_save_"
            "alone",
        ),
    ),
    10: Row(
        "the disk is full during training",
        (
            f"{ROOM}test_a_disk_that_fills_up_during_training_is_told_within_"
            "an_interval",
            "training/test_summaries.py::"
            "test_a_record_that_cannot_be_written_is_told",
        ),
    ),
    11: Row(
        "the disk is full during a preparation",
        (
            f"{ROOM}test_a_disk_that_fills_up_during_a_preparation_leaves_no_"
            "data_set",
        ),
    ),
    12: Row(
        "a run folder that cannot be written",
        (
            f"{ROOM}test_a_run_folder_that_cannot_be_written_is_told_before_"
            "the_networks",
            f"{ROOM}test_trying_to_write_leaves_no_folder",
        ),
    ),
    13: Row(
        "two trainings in one folder",
        (
            f"{ROOM}test_a_lock_says_who_holds_it",
            f"{CHECKPOINT}test_a_folder_is_locked_while_it_is_trained_in",
        ),
    ),
    14: Row(
        "SIGTERM",
        (
            "tools/test_reproduce.py::test_it_is_stopped_goes_on_and_does_nothing_twice",
        ),
    ),
    15: Row(
        "Ctrl-C, once and twice",
        (
            "training/test_signals.py::test_a_second_ctrl_c_ends_a_step_at_once",
            f"{LOOP}test_a_run_that_was_stopped_and_gone_on_with_ends_bit_by_"
            "bit_the_same",
        ),
    ),
    16: Row(
        "a signal to one of several workers",
        (
            f"{CLUSTER}test_a_signal_to_one_stops_all_after_the_same_step_and_"
            "none_is_lost",
        ),
    ),
    17: Row(
        "a worker is killed",
        (f"{CLUSTER}test_a_peer_that_is_gone_is_noticed_by_the_other",),
    ),
    18: Row(
        "a worker is frozen",
        (f"{CLUSTER}test_a_peer_that_is_gone_is_noticed_by_the_other",),
    ),
    19: Row(
        "a worker never starts, or its port is taken",
        (
            f"{CLUSTER}test_a_training_whose_peer_never_starts_ends",
            f"{CLUSTER}test_a_port_that_is_taken_is_told_at_once",
        ),
    ),
    20: Row(
        "TF_CONFIG is wrong",
        (f"{CLUSTER}test_what_is_wrong_in_tf_config_is_named",),
    ),
    21: Row(
        "workers with other flags, code or data",
        (f"{CLUSTER}test_workers_with_other_flags_are_refused_in_all_of_them",),
    ),
    22: Row(
        "a batch that is not finite",
        (
            f"{LOOP}test_a_step_that_is_not_finite_is_left_out_and_told_with_"
            "its_slices",
            f"{LOOP}test_too_many_steps_that_are_not_finite_end_the_run",
            "training/test_ways.py::"
            "test_a_batch_that_is_not_finite_changes_no_weight",
        ),
    ),
    23: Row(
        "the training diverges",
        (
            f"{LOOP}test_divergence_is_told_and_stops_the_run_where_asked",
            f"{LOOP}test_divergence_goes_back_to_the_checkpoint_before_and_"
            "slows_down",
            "training/test_watch.py::"
            "test_divergence_is_twice_as_long_and_names_its_first_step",
        ),
    ),
    24: Row(
        "weights that are not finite",
        (
            f"{LOOP}test_weights_that_are_not_finite_are_not_saved",
            "training/test_ways.py::test_a_weight_that_is_not_finite_is_found",
        ),
    ),
    25: Row(
        "a byte of a shard is flipped",
        (
            RECORDS,
            "faults/test_records.py::"
            "test_damage_that_comes_later_names_the_shard_and_the_place",
        ),
    ),
    26: Row("a shard is cut or empty", (RECORDS,)),
    27: Row("a shard is missing, extra, twice or of another build", (RECORDS,)),
    28: Row("a shard is compressed otherwise", (RECORDS,)),
    29: Row(
        "a record of another schema",
        (
            "faults/test_records.py::"
            "test_records_of_another_schema_are_refused_by_the_feature",
        ),
    ),
    30: Row(
        "a damaged gzip stream",
        (IMAGES, "data/test_io.py::test_a_damaged_gzip_file_is_refused"),
    ),
    31: Row(
        "a decompression bomb",
        (IMAGES, "faults/test_memory.py::test_a_bomb_takes_no_memory"),
    ),
    32: Row(
        "no size, another number of axes, colour, complex",
        (
            IMAGES,
            "data/test_io.py::test_a_header_that_cannot_be_right_is_refused",
        ),
    ),
    33: Row(
        "voxels that are not finite",
        (
            IMAGES,
            "data/test_io.py::"
            "test_voxels_that_are_no_numbers_are_counted_and_located",
        ),
    ),
    34: Row(
        "one value everywhere, no foreground",
        (IMAGES, "data/test_pairs.py::test_a_target_without_body_is_refused"),
    ),
    35: Row(
        "shapes of a pair differ",
        (
            "data/test_preprocess.py::"
            "test_a_source_on_another_grid_comes_to_lie_upon_the_target",
        ),
        "no fault here: the affines say where each lies",
    ),
    36: Row(
        "a pair lies in two places",
        (IMAGES, "faults/test_images.py::test_what_is_suspicious_is_told"),
    ),
    37: Row(
        "an affine that is singular, or none",
        (IMAGES, "faults/test_images.py::test_what_is_suspicious_is_told"),
    ),
    38: Row(
        "a slope that is not finite, or too large",
        (IMAGES, "data/test_io.py::test_values_beyond_float32_are_refused"),
    ),
    39: Row(
        "a DICOM series that is none",
        (
            f"{DICOM}test_a_gap_is_refused_and_its_two_sides_are_named",
            f"{DICOM}test_slices_that_do_not_belong_together_are_named",
            f"{DICOM}test_two_slices_in_one_place_are_refused_and_named",
            f"{DICOM}test_each_slice_of_a_pet_has_its_own_slope_and_the_series_"
            "one_factor",
            f"{DICOM}test_what_is_not_a_plain_slice_is_named",
        ),
    ),
    40: Row(
        "a damaged DICOM file",
        (
            f"{DICOM}test_a_file_cut_short_is_named",
            f"{DICOM}test_a_compression_that_cannot_be_undone_is_named",
            f"{DICOM}test_a_header_that_declares_too_much_is_refused_unread",
        ),
    ),
    41: Row(
        "names of patients in headers",
        (
            "tools/test_canaries.py::"
            "test_what_is_prepared_trained_scored_and_exported_holds_none",
            "tools/test_canaries.py::test_translated_volumes_hold_none",
        ),
    ),
    42: Row(
        "paths that lead out of the data",
        (
            "data/test_manifest.py::"
            "test_no_path_leads_out_of_the_folder_of_the_data",
            "data/test_manifest.py::"
            "test_no_link_that_a_pattern_finds_leads_out",
            RECORDS,
        ),
    ),
    43: Row(
        "a subject on two sides, an image of two patients",
        (
            "data/test_verify.py::"
            "test_equal_voxels_of_two_patients_are_an_error_of_one_a_warning",
            "data/test_verify_records.py::"
            "test_a_patient_or_a_slice_on_two_sides_is_told",
            "data/test_split.py::test_every_patient_is_on_exactly_one_side",
        ),
    ),
    44: Row(
        "weights of VGG-19 that are changed, cut or not there",
        (
            "models/test_vgg19.py::test_one_bit_of_imagenets_weights_is_missed",
            "models/test_vgg19.py::test_what_keras_downloads_is_compared_too",
            "models/test_vgg19.py::test_a_broken_npz_is_told_as_such",
            "models/test_vgg19.py::"
            "test_a_download_that_fails_is_told_with_three_ways_out",
        ),
    ),
    45: Row(
        "a file that carries code",
        (
            "faults/test_code.py::test_nothing_is_unpickled_or_run",
            "tools/test_convert_lpips.py::test_a_file_that_carries_code_is_refused",
        ),
    ),
    46: Row(
        "what an exported model cannot translate",
        (
            "serving/test_export.py::"
            "test_the_graph_refuses_values_that_are_no_image",
            "serving/test_export.py::"
            "test_the_graph_refuses_images_of_another_size",
            "serving/test_signatures.py::test_a_broken_png_is_the_callers_error",
            "serving/test_signatures.py::"
            "test_a_broken_example_is_the_callers_error",
        ),
    ),
    47: Row(
        "an export is killed, or the version exists",
        (
            f"{KILLS}test_kills_during_exports_leave_no_version_that_does_not_"
            "load",
            "serving/test_export.py::"
            "test_a_version_that_exists_is_refused_and_left_alone",
        ),
    ),
    48: Row(
        "requests that are empty, wrong, deep, large, slow",
        (
            "serving/test_server.py::"
            "test_a_request_that_cannot_be_answered_is_a_4xx_in_a_line",
            "serving/test_server.py::"
            "test_a_body_that_is_too_large_is_refused_before_it_is_read",
            "tools/test_serve.py::"
            "test_large_broken_and_slow_requests_cost_others_nothing",
        ),
    ),
    49: Row(
        "more requests than can be answered",
        (
            "serving/test_server.py::"
            "test_health_answers_while_the_model_works_and_no_more_than_some_"
            "wait",
            "tools/test_benchmark.py::"
            "test_serving_is_asked_at_moments_of_its_own",
        ),
        "ten minutes of load are measured by benchmark.py --suite=serving",
    ),
    50: Row(
        "a reader who wants more than to read",
        (
            "reader_study/test_server.py::test_every_role_on_every_route",
            "reader_study/test_server.py::test_naughty_strings_are_harmless",
        ),
    ),
    51: Row(
        "a page on a public interface",
        (
            "reader_study/test_server.py::"
            "test_tokens_cross_no_network_in_the_clear",
            "tools/test_serve.py::test_it_listens_to_this_machine_alone",
        ),
    ),
    52: Row(
        "out of memory",
        (
            "faults/test_memory.py::"
            "test_a_batch_that_does_not_fit_is_told_with_what_takes_less",
        ),
    ),
    53: Row(
        "a dependency changes or has a known weakness",
        left_out="make audit asks the network; installs are by hash",
    ),
    54: Row(
        "odd names, odd clocks",
        (
            "faults/test_names.py::test_a_folder_may_have_any_name",
            "faults/test_names.py::"
            "test_steps_and_not_times_say_which_checkpoint_is_the_last",
            "faults/test_images.py::test_a_good_image_is_never_refused",
        ),
    ),
}


@functools.cache
def names_in(name):
    tree = ast.parse((TESTS / name).read_text())
    return {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}


@pytest.mark.parametrize("number", ROWS)
def test_every_row_has_a_test_that_exists_or_a_reason(number):
    row = ROWS[number]
    assert row.tests or row.left_out
    for test in row.tests:
        file, name = test.split("::")
        assert name in names_in(file), test


def test_all_slow_faults_are_run_by_their_command():
    """`make test` leaves them out, so `make test-faults` must not."""
    makefile = (TESTS.parent / "Makefile").read_text()
    assert "pytest -m faults $(ARGS)" in makefile
