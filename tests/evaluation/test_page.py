"""The page shows what it is given, and asks nobody for anything."""

import base64
import html.parser
import re

from medgan_tf.evaluation import page

NAUGHTY = "<script>alert('x')</script> & \"quoted\" é"


class Reader(html.parser.HTMLParser):
    """Tags with attributes, and the text of each kind of tag."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self._open = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        tag = self._open[-1] if self._open else ""
        self.text[tag] = self.text.get(tag, "") + data


def test_what_a_patient_is_called_is_text_and_never_markup():
    cell = page.Cell(NAUGHTY, (NAUGHTY,), True, NAUGHTY, NAUGHTY)
    text = page.page(
        NAUGHTY,
        [
            page.heading(NAUGHTY),
            page.paragraph(NAUGHTY, warning=True),
            page.table(["", NAUGHTY], [page.Row(NAUGHTY, (cell,))], NAUGHTY),
            page.picture(b"png", NAUGHTY),
        ],
    )
    found = Reader(text)
    assert "script" not in {tag for tag, _ in found.tags}
    for tag in ("h1", "h2", "b", "small", "figcaption", "title"):
        assert found.text[tag].strip() == NAUGHTY
    (cell_tag,) = [at for tag, at in found.tags if tag == "td"]
    assert cell_tag["data-from"] == NAUGHTY


def test_the_page_needs_no_network():
    text = page.page("A", [page.picture(b"png", "a picture")])
    assert not re.search(r"https?:|//|@import|url\(|<script|<link", text)


def test_a_picture_is_inside_the_page():
    found = Reader(page.picture(b"\x89PNG", "what it shows"))
    (picture,) = [at for tag, at in found.tags if tag == "img"]
    kind, data = picture["src"].split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data) == b"\x89PNG"
    assert picture["alt"] == "what it shows"
