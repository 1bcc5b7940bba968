"""What the commands share: output, refusals, JSON."""

from collections.abc import Callable

import duckdb
import pytest

from pipeline.console.commands import messages, refusing, results, show_json
from pipeline.errors import ConfigError, ExportError, ManifestError, ModelError, StoreError

EXPECTED: list[Callable[[str], Exception]] = [
    *(ConfigError, ExportError, ManifestError, ModelError, StoreError),
    *(OSError, duckdb.Error),
]


@pytest.mark.parametrize("kind", EXPECTED, ids=lambda kind: str(kind.__name__))
def test_a_refusal_is_one_line_on_stderr_and_exit_code_2(
    kind: Callable[[str], Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    text = "/data/[a]:warning:: " + "a long reason " * 20
    with pytest.raises(SystemExit) as stopped, refusing():
        raise kind(text)
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"refused: {text}\n")


@pytest.mark.parametrize("kind", [KeyError, ValueError, KeyboardInterrupt, SystemExit])
def test_a_bug_is_not_a_refusal(kind: type[BaseException]) -> None:
    with pytest.raises(kind), refusing():
        raise kind(7)


def test_results_and_messages_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    text = "[red]1,000[/red] :smile: " + "long " * 40
    results().print(text)
    messages().print(text)
    said = capsys.readouterr()
    assert (said.out, said.err) == (text + "\n", text + "\n")


def test_json_is_one_line_and_no_figure_that_json_lacks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_json({"text": "你好\n", "n": 1})
    assert capsys.readouterr().out == '{"text": "你好\\n", "n": 1}\n'
    with pytest.raises(ValueError, match="JSON compliant"):
        show_json({"cer": float("nan")})
