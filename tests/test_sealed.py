"""A JSON file of ours tells when one character of it was changed."""

import json

import pytest

from medgan_tf import sealed

CONTENT = {"window": (-1000.0, 2000.0), "ä": {"9": None, "10": [True, 0.1]}}


def test_what_was_written_comes_back_as_json(tmp_path):
    sealed.write(tmp_path / "a.json", CONTENT)
    assert sealed.read(tmp_path / "a.json") == json.loads(json.dumps(CONTENT))
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_any_digit_or_letter_that_was_changed_is_told():
    text = sealed.dumps(CONTENT)
    for at, old in enumerate(text):
        if old.isalnum():
            new = "7" if old != "7" else "3"
            with pytest.raises(ValueError):
                sealed.loads(text[:at] + new + text[at + 1 :])


def test_lines_spaces_and_order_may_change():
    found = json.loads(sealed.dumps(CONTENT))
    text = json.dumps(dict(reversed(found.items())))
    assert sealed.loads(text) == json.loads(json.dumps(CONTENT))


def test_keys_that_are_numbers_are_text_to_json():
    assert sealed.loads(sealed.dumps({9: 1, 10: 2})) == {"9": 1, "10": 2}


@pytest.mark.parametrize("text", ["[]", "{}", "3", "null", '{"window": 1}'])
def test_a_file_that_nobody_sealed_is_refused(text):
    with pytest.raises(ValueError, match="no sha256"):
        sealed.loads(text)


def test_numbers_that_json_has_not_are_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        sealed.write(tmp_path / "a.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())
