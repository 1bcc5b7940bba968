"""References of one channel meet the labels of this channel."""

from pathlib import Path

import pytest

from pipeline.evaluation.corpora import read_references
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.hypotheses import read_channels, read_hypotheses
from pipeline.evaluation.references import Joined, join
from pipeline.storage.store import Store
from pipeline.tables import open_snapshot
from tests.support.call import publish_call


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return publish_call(tmp_path)


def joined(store: Store, lines: str) -> tuple[Joined, float | None]:
    """How the references meet the labels, and the error rate over all."""
    snapshot = open_snapshot(store.root)
    path = Path(store.root).parent / "references.csv"
    path.write_text(lines)
    found = read_references(str(path))
    hypotheses, channels = read_hypotheses(snapshot, {}), read_channels(snapshot, {})
    met = join(found, {name: one.uri for name, one in hypotheses.items()}, channels)
    scored = evaluate(met, hypotheses | channels, found, ("f", 1))
    mixed = scored.scores.mixed
    return met, mixed.errors.rate if mixed else None


def test_each_channel_has_its_own_text_and_its_own_seconds(store: Store) -> None:
    channels = read_channels(open_snapshot(store.root), {})
    assert {name: (one.text, one.duration_s) for name, one in channels.items()} == {
        "call#channel=1": ("1 says 0 1 says 1", 10.0),
        "call#channel=2": ("2 says 0 2 says 1", 10.0),
    }
    assert channels["call#channel=1"].events.keys() == {"speech"}


def test_a_reference_with_a_channel_meets_only_this_channel(store: Store) -> None:
    lines = "key,channel,text\ncall.wav,1,1 says 0 1 says 1\ncall.wav,2.0,2 says 0 2 says 9\n"
    met, rate = joined(store, lines)
    assert [*met.by_recording] == ["call#channel=1", "call#channel=2"]
    assert (met.n_missing, met.n_without) == (0, 0)
    assert rate == pytest.approx(1 / 12)


def test_a_channel_that_was_not_labelled_is_missing_and_its_words_count(store: Store) -> None:
    lines = "key,channel,text\ncall,1,1 says 0 1 says 1\ncall,3,two words\n"
    met, rate = joined(store, lines)
    assert ([*met.by_recording], met.n_missing) == (["call#channel=1"], 1)
    assert rate == pytest.approx(2 / 8)


def test_a_reference_without_a_channel_meets_all_of_them_in_time_order(store: Store) -> None:
    met, rate = joined(store, "key,text\ncall,1 says 0 2 says 0 1 says 1 2 says 1\n")
    assert ([*met.by_recording], rate) == (["call"], 0.0)


def test_a_column_channel_of_another_meaning_is_counted(store: Store) -> None:
    Path(store.root).parent.joinpath("r.csv").write_text("key,channel,text\ncall,news,a\n")
    found = read_references(str(Path(store.root).parent / "r.csv"))
    assert found.references[0].channel is None
    assert found.unmapped == {"channel: news": 1}
