"""Reviews: each save is kept, a conflict is told, the newest revision is the table's."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import StoreError
from pipeline.maintenance.compact import compact, preview
from pipeline.maintenance.release import release
from pipeline.maintenance.vacuum import vacuum
from pipeline.maintenance.verify import verify
from pipeline.schema import REVIEWS, VERDICTS
from pipeline.storage.store import Store, open_store
from pipeline.tables import connect, open_snapshot
from pipeline.tables.commit_log import read_state
from pipeline.tables.review_table import current_reviews, fold_reviews
from pipeline.tables.reviews import (
    Interval,
    Labels,
    Review,
    ReviewConflict,
    Shown,
    from_row,
    history,
    save,
    to_table,
)
from tests.support.bundle_rows import OTHER_MODEL
from tests.support.call import publish_call
from tests.support.small_output import publish_each

LABELS = Labels("what was said", "en", "neutral", ("speech",))
SEGMENT_0 = Interval("a", "v1", 0.0, 2.5)
SEGMENT_1 = Interval("a", "v1", 4.0, 6.5)


def review(interval: Interval = SEGMENT_0, revision: int = 1, text: str = "right") -> Review:
    return Review(
        interval=interval,
        revision=revision,
        verdict="fixed",
        labels=replace(LABELS, text=text),
        shown=Shown("a-000000", "f1" * 16, 1, LABELS),
        reviewer="ann",
        saved_at=datetime(2026, 11, 26, 12, tzinfo=UTC),
        request_id=f"{text}-{revision}",
        note="=1+1",
        spent_s=3.5,
        sample="random",
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path / "root"))
    publish_each(store, "ab")
    return store


def test_a_review_reads_back_as_it_was_saved(store: Store) -> None:
    one = review(Interval("a", "v1", 0.0, 2.5, channel=1))
    save(store, one)
    assert history(store, one.interval) == [one]


def test_every_field_of_a_review_has_its_column() -> None:
    one = review()
    assert from_row(to_table([one]).to_pylist()[0]) == one
    assert to_table([one]).to_pylist() == [
        {
            "recording_id": "a",
            "channel": None,
            "version": "v1",
            "start_s": 0.0,
            "end_s": 2.5,
            "revision": 1,
            "verdict": "fixed",
            "text": "right",
            "language": "en",
            "emotion": "neutral",
            "events": ["speech"],
            "note": "=1+1",
            "reviewer": "ann",
            "saved_at": datetime(2026, 11, 26, 12, tzinfo=UTC),
            "spent_s": 3.5,
            "sample": "random",
            "segment_id": "a-000000",
            "fingerprint": "f1" * 16,
            "seq": 1,
            "shown": {
                "text": "what was said",
                "language": "en",
                "emotion": "neutral",
                "events": ["speech"],
            },
            "request_id": "right-1",
        }
    ]
    assert set(VERDICTS) == {"right", "fixed", "unusable", "unsure", "withdrawn"}


def test_the_second_of_two_reviewers_gets_a_conflict_with_the_first_ones_text(store: Store) -> None:
    save(store, review(text="mine"))
    with pytest.raises(ReviewConflict, match=r"ann saved revision 1 .* compare it") as raised:
        save(store, review(text="theirs"))
    assert raised.value.theirs.labels.text == "mine"
    assert [one.labels.text for one in history(store, SEGMENT_0)] == ["mine"]


def test_of_ten_saves_at_the_same_time_one_is_kept(store: Store) -> None:
    def attempt(number: int) -> bool:
        try:
            save(store, review(text=str(number)))
        except ReviewConflict:
            return False
        return True

    with ThreadPoolExecutor(10) as pool:
        assert sum(pool.map(attempt, range(10))) == 1
    assert len(history(store, SEGMENT_0)) == 1


def test_a_save_that_is_sent_again_is_made_once(store: Store) -> None:
    first = save(store, review())
    save(store, review(revision=2, text="newer"))
    again = replace(review(), saved_at=datetime(2027, 1, 1, tzinfo=UTC))
    assert save(store, again) == first
    assert [one.revision for one in history(store, SEGMENT_0)] == [1, 2]


def test_a_revision_that_follows_none_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="revision 3 does not follow 0"):
        save(store, review(revision=3))


def test_undoing_is_the_next_revision(store: Store) -> None:
    save(store, review(text="first"))
    save(store, review(revision=2, text="second"))
    save(store, replace(review(revision=3, text="first"), request_id="undo"))
    fold_reviews(store)
    rows = current_reviews(store, read_state(store)).to_pylist()
    assert [(row["revision"], row["text"]) for row in rows] == [(3, "first")]


def test_the_table_has_what_was_folded_and_current_reviews_the_rest(store: Store) -> None:
    save(store, review())
    assert fold_reviews(store).n_new == 1
    assert fold_reviews(store).n_new == 0
    save(store, review(SEGMENT_1, text="later"))
    assert connect(store.root).sql("SELECT text FROM reviews").fetchall() == [("right",)]
    current = current_reviews(store, read_state(store))
    assert current["text"].to_pylist() == ["right", "later"]
    assert current.schema.equals(REVIEWS)


def test_compaction_folds_and_vacuum_never_deletes_a_review(store: Store) -> None:
    for number in (1, 2, 3):
        save(store, review(revision=number))
        assert preview(store).n_reviews == 1
        assert compact(store).n_reviews == 1
    old = len(store.list("reviews/"))
    vacuum(store, retain_s=0)
    assert (old, len(store.list("reviews/")), len(store.list("_reviews/"))) == (3, 1, 3)
    assert connect(store.root).sql("SELECT revision FROM reviews").fetchall() == [(3,)]
    assert verify(store).problems == []
    assert verify(store).n_reviews == 1


def test_an_output_without_tables_has_nothing_to_fold(tmp_path: Path) -> None:
    assert fold_reviews(open_store(str(tmp_path))).seq == 0


def test_verify_tells_of_a_lost_review(store: Store) -> None:
    save(store, review())
    fold_reviews(store)
    store.delete(store.list("_reviews/"))
    assert "revision 1 of a-000000 is missing" in verify(store).problems[0]


def test_verify_tells_of_a_changed_table_of_reviews(store: Store) -> None:
    save(store, review())
    fold_reviews(store)
    (key,) = store.list("reviews/")
    store.put(key, store.get(key)[:-1] + b"x")
    assert "differs from what was committed" in verify(store).problems[0]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"review_version": 2}, "a newer version of this program wrote it"),
        ({"verdict": None, "events": None}, "cannot be read"),
        ({"start_s": 9.0}, "holds the review of another interval"),
    ],
)
def test_a_damaged_review_is_named(store: Store, change: dict[str, object], complaint: str) -> None:
    save(store, review())
    (key,) = store.list("_reviews/")
    store.put(key, json.dumps(json.loads(store.get(key)) | change).encode())
    with pytest.raises(StoreError, match=complaint) as raised:
        fold_reviews(store)
    assert store.uri(key) in str(raised.value)
    assert complaint in verify(store).problems[0]


def test_reviews_survive_another_model(store: Store) -> None:
    """Under another fingerprint the segments are the same stretch, give or take 0.2 s."""
    save(store, review(Interval("a", "v1", 0.1, 2.6)))
    save(store, review(Interval("a", "v1", 4.0, 5.0), text="moved"))
    save(store, review(Interval("b", "older", 0.0, 2.5), text="of other audio"))
    fold_reviews(store)
    publish_each(store, "ab", run=OTHER_MODEL)
    for fingerprint in (None, OTHER_MODEL.fingerprint):
        connection = connect(store.root, fingerprint=fingerprint)
        fitted = connection.sql("SELECT segment_id, text, shown_text FROM segment_reviews")
        assert fitted.fetchall() == [("a-000000", "right", "what was said")]


def test_segments_reviewed_are_as_people_corrected_them(store: Store) -> None:
    save(store, review())
    unsure = replace(review(SEGMENT_1, text="perhaps"), verdict="unsure")
    save(store, unsure)
    save(store, replace(review(Interval("b", "v1", 0.0, 2.5)), verdict="withdrawn"))
    fold_reviews(store)
    rows = connect(store.root).sql(
        "SELECT segment_id, text, language, emotion, verdict, model_text "
        "FROM segments_reviewed ORDER BY segment_id"
    )
    assert rows.fetchall() == [
        ("a-000000", "right", "en", "neutral", "fixed", "a v1 a1 0.0"),
        ("a-000001", "a v1 a1 0.1", "en", "unknown", None, "a v1 a1 0.1"),
        ("b-000000", "b v1 a1 0.0", "en", "unknown", None, "b v1 a1 0.0"),
        ("b-000001", "b v1 a1 0.1", "en", "unknown", None, "b v1 a1 0.1"),
    ]


def test_a_release_holds_the_reviews(store: Store, tmp_path: Path) -> None:
    save(store, review())
    fold_reviews(store)
    released = release(open_snapshot(store.root), open_store(str(tmp_path / "copy")))
    assert released.n_rows["reviews"] == 1
    (path,) = (tmp_path / "copy" / "reviews").glob("*.parquet")
    assert pa.parquet.read_table(path)["text"].to_pylist() == ["right"]


def test_a_review_of_a_channel_is_of_the_segment_of_this_channel(tmp_path: Path) -> None:
    """Two people speak at the same time: their segments have the same stretch."""
    store = publish_call(tmp_path)
    save(store, review(Interval("call", "v1", 0.0, 2.5, channel=2), text="two"))
    save(store, review(Interval("call", "v1", 4.0, 6.5), text="of no channel"))
    fold_reviews(store)
    with connect(store.root) as connection:
        rows = connection.sql(
            "SELECT channel, text, verdict FROM segments_reviewed ORDER BY segment_id"
        ).fetchall()
    assert rows[:2] == [(1, "1 says 0", None), (2, "two", "fixed")]
    assert [verdict for _, _, verdict in rows[2:]] == [None, None]
