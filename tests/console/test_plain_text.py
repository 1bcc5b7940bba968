"""Text of the corpus on a terminal: no escape sequence reaches it."""

import io
import json

import pytest
from rich.table import Table

from pipeline.console import commands
from pipeline.console.plain_text import visible, visible_json


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b31m", r"\x9b31m"),
        ("a\rb\x07\x7f", r"a\x0db\x07\x7f"),
        ("abc\u202edcba", r"abc\u202edcba"),
        ("\udc80", r"\udc80"),
        ("粤语\u3000 naïve 👩\u200d👩 می\u200cخواهم\n\tend", None),
    ],
)
def test_control_characters_become_escapes(text: str, shown: str | None) -> None:
    assert visible(text) == (text if shown is None else shown)
    assert json.loads(visible_json(json.dumps(text, ensure_ascii=False))) == text
    assert "\x9b" not in visible_json(json.dumps(text, ensure_ascii=False))


@pytest.mark.parametrize("console", [commands.results, commands.messages])
def test_no_console_prints_a_control_character(console: object) -> None:
    assert callable(console)
    made = console()
    made.file = io.StringIO()
    table = Table("\x1b]0;title\x07")
    table.add_row("\x1b[31mred")
    made.print(table, "\x1b[2J", soft_wrap=False)
    assert "\x1b" not in made.file.getvalue()
    assert r"\x1b[31mred" in made.file.getvalue()
