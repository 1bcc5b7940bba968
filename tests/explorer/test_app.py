"""The explorer over HTTP: pages, facets, SQL, audio, corrections, and who may ask."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from pipeline.explorer.app import create_app
from pipeline.maintenance.verify import verify
from pipeline.manifest.access import make_allowed_roots
from pipeline.storage.store import open_store
from pipeline.tables import connect
from pipeline.tables.reviews import Interval, history
from tests.explorer.conftest import TOKEN, settings_for
from tests.support.explored import HOSTILE, NAMES, write_output
from tests.support.http import Client, serving
from tests.support.small_output import publish_each

ANN = quote("ann-000000", safe="")


def review(segment_id: str = "ann-000000", **changes: Any) -> dict[str, Any]:
    return {
        "segment_id": segment_id,
        "revision": 0,
        "verdict": "fixed",
        "text": "two better words",
        "language": "en",
        "emotion": "neutral",
        "events": ["speech"],
        "request_id": f"request-{time.monotonic_ns()}",
        **changes,
    }


def test_a_page_shows_what_the_tables_say(client: Client) -> None:
    (row, *_) = client.get("/api/segments", limit=1).json["rows"]
    assert (row["segment_id"], row["text"]) == ("ann-000000", "two words here")
    assert [word["word"] for word in row["words"]] == ["two", "words", "here"]
    assert row["language"]["label"] == "en"
    assert row["recording"]["extra"] == {"corpus": "made up"}
    assert (row["revision"], row["review"]) == (0, None)


@pytest.mark.parametrize("order", ["key", "uncertainty", "random"])
def test_pages_have_neither_gaps_nor_doubles(client: Client, order: str) -> None:
    seen, after = [], ""
    while True:
        page = client.get("/api/segments", order=order, after=after, limit=1).json
        seen += [row["segment_id"] for row in page["rows"]]
        if page["next"] is None:
            break
        after = page["next"]
    assert sorted(seen) == sorted(f"{name}-{at:06d}" for name in NAMES for at in range(2))
    assert len(seen) == 6


@pytest.mark.parametrize(
    ("where", "n"),
    [
        ("confidence < 0.6", 2),
        ("language = 'en'", 6),
        ("text ILIKE '%here%'", 5),
        ("list_contains(events, 'laughter')", 6),
        ("extra['corpus'] = 'made up' AND uri LIKE '%/1.wav'", 2),
        ("verdict IS NULL", 6),
        ("true -- a comment", 6),
    ],
)
def test_a_filter_is_an_sql_condition(client: Client, where: str, n: int) -> None:
    facets = client.get("/api/facets", where=where).json
    assert facets["n"] == n, facets
    assert len(client.get("/api/segments", where=where).json["rows"]) == n


def test_facets_count_what_fits(client: Client) -> None:
    facets = client.get("/api/facets", where="confidence >= 0.6").json
    assert facets["language"] == [["en", 4]]
    assert sum(facets["confidence"]["counts"]) == 4
    assert facets["confidence"]["edges"][:3] == [0.0, 0.05, 0.1]
    assert dict(facets["event"])["speech"] == 4


@pytest.mark.parametrize(
    "where",
    [
        "1) UNION SELECT * FROM read_text('/etc/passwd') --",
        "segment_id IN (SELECT content FROM read_text('/etc/passwd'))",
        "true; DROP VIEW browse",
        "no_such_column = 1",
        "(",
    ],
)
def test_a_condition_that_is_none_or_reads_elsewhere_is_refused(client: Client, where: str) -> None:
    answer = client.get("/api/segments", where=where)
    assert answer.status == 400, answer.content
    assert b"root:" not in answer.content


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_parquet('http://127.0.0.1:1/x.parquet')",
        "COPY (SELECT 1) TO 'FOLDER/written.csv'",
        "ATTACH 'FOLDER/other.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "CREATE TABLE t AS SELECT 1",
        "DROP VIEW segments",
        "SET lock_configuration = false",
        "PRAGMA database_list",
        "CALL duckdb_settings()",
        "SELECT 1; SELECT 2",
        "SELECT * FROM query('COPY (SELECT 1) TO ''FOLDER/written.csv''')",
        "EXPLAIN ANALYZE SELECT 1",
        "",
    ],
)
def test_sql_that_does_more_than_read_the_tables_is_refused(
    client: Client, root: str, tmp_path: Path, sql: str
) -> None:
    before = _digest(root)
    answer = client.get("/api/sql", sql=sql.replace("FOLDER", str(tmp_path)))
    assert answer.status == 400, answer.content
    assert _digest(root) == before
    assert list(tmp_path.iterdir()) == []


def _digest(root: str) -> dict[str, str]:
    files = (path for path in Path(root).rglob("*") if path.is_file())
    return {str(path): sha256(path.read_bytes()).hexdigest() for path in files}


def test_sql_answers_with_columns_rows_and_a_limit(client: Client) -> None:
    answer = client.get("/api/sql", sql="FROM segments SELECT segment_id ORDER BY 1", limit=2).json
    assert answer == {
        "columns": ["segment_id"],
        "rows": [["ann-000000"], ["ann-000001"]],
        "truncated": True,
    }
    assert client.get("/api/sql", sql="SELECT count(*) FROM segments_reviewed").json["rows"] == [
        [6]
    ]


def test_a_clip_is_what_the_model_received(client: Client) -> None:
    answer = client.get(f"/api/segments/{ANN}/clip.wav")
    assert answer.headers["content-type"] == "audio/wav"
    assert len(answer.content) == 44 + 2 * 2.5 * 16_000
    peaks = client.get(f"/api/segments/{ANN}/peaks", n=100).json
    assert len(peaks["peaks"]) == 100
    assert max(peaks["peaks"]) == pytest.approx(8000 / 32768, abs=0.01)
    assert peaks["duration_s"] == 2.5


def test_a_name_with_every_difficult_character_is_found(client: Client) -> None:
    name = quote(f"{NAMES[2]}-000001", safe="")
    assert client.get(f"/api/segments/{name}/row").json["text"] == HOSTILE
    assert client.get(f"/api/segments/{name}/clip.wav").status == 200
    assert client.get(f"/api/recordings/{quote(NAMES[2], safe='')}/peaks").status == 200


@pytest.mark.parametrize(
    ("wanted", "status", "n", "content_range"),
    [
        (None, 200, 320_044, None),
        ("bytes=0-99", 206, 100, "bytes 0-99/320044"),
        ("bytes=320000-", 206, 44, "bytes 320000-320043/320044"),
        ("bytes=-44", 206, 44, "bytes 320000-320043/320044"),
        ("bytes=5-1", 416, None, None),
        ("bytes=320044-", 416, None, None),
        ("bytes=a-b", 416, None, None),
        ("lines=1-2", 416, None, None),
    ],
)
def test_the_recording_is_sent_in_ranges(
    client: Client, wanted: str | None, status: int, n: int | None, content_range: str | None
) -> None:
    answer = client.get("/api/recordings/ann/audio", {"range": wanted} if wanted else {})
    assert answer.status == status
    if n is not None:
        assert len(answer.content) == n
        assert answer.headers.get("content-range") == content_range
        assert answer.headers["accept-ranges"] == "bytes"
        assert answer.headers["content-type"] == "audio/wav"


def test_what_is_not_there_is_404(client: Client) -> None:
    for path in ("segments/none/row", "segments/none/clip.wav", "recordings/none/audio"):
        assert client.get(f"/api/{path}").status == 404
    assert client.get("/static/..%2fapp.py").status == 404
    assert client.get("/static/app.py").status == 404


def test_audio_outside_the_allowed_roots_is_not_opened(
    root: str, tmp_path: Path, patience: None
) -> None:
    """Rows can be old, and links can have changed since."""
    settings = settings_for(root, allowed=make_allowed_roots("", [str(tmp_path)]))
    with serving(create_app(settings), {"authorization": f"Bearer {TOKEN}"}) as client:
        for path in (f"segments/{ANN}/clip.wav", "recordings/ann/audio", "recordings/ann/peaks"):
            answer = client.get(f"/api/{path}")
            assert (answer.status, answer.json["error"]["code"]) == (422, "NotAllowed")


def test_a_link_that_was_changed_after_labelling_is_not_followed(
    tmp_path: Path, patience: None
) -> None:
    root = write_output(tmp_path)
    secret = tmp_path / "secret.wav"
    (tmp_path / "audio" / "0.wav").rename(secret)
    os.symlink(secret, tmp_path / "audio" / "0.wav")
    with serving(create_app(settings_for(root)), {"authorization": f"Bearer {TOKEN}"}) as client:
        answer = client.get(f"/api/segments/{ANN}/clip.wav")
        assert (answer.status, answer.json["error"]["code"]) == (422, "NotAllowed")
        (tmp_path / "audio" / "1.wav").unlink()
        answer = client.get("/api/segments/bob-000000/clip.wav")
        assert (answer.status, answer.json["error"]["code"]) == (422, "FileMissing")


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"authorization": ""}, 401, "no_token"),
        ({"authorization": "Bearer wrong"}, 401, "no_token"),
        ({"authorization": "", "cookie": "sensevoice_session=wrong"}, 401, "no_token"),
        ({"host": "evil.example"}, 421, "wrong_host"),
        ({"origin": "http://evil.example"}, 403, "wrong_origin"),
        ({"origin": "null"}, 403, "wrong_origin"),
        ({"sec-fetch-site": "cross-site"}, 403, "wrong_origin"),
        ({"content-type": "text/plain"}, 415, "not_json"),
        ({"content-type": "application/x-www-form-urlencoded"}, 415, "not_json"),
    ],
)
def test_who_may_not_ask_is_told_why(
    client: Client, headers: dict[str, str], status: int, code: str
) -> None:
    answer = client.post("/api/reviews", review(), headers)
    assert (answer.status, answer.json["error"]["code"]) == (status, code)


def test_the_cookie_of_a_session_is_enough_for_media(client: Client) -> None:
    answer = client.get("/api/session")
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert "SameSite=strict" in answer.headers["set-cookie"]
    cookie = answer.headers["set-cookie"].partition(";")[0]
    alone = Client(client.port)
    assert alone.get(f"/api/segments/{ANN}/clip.wav").status == 401
    assert alone.get(f"/api/segments/{ANN}/clip.wav", {"cookie": cookie}).status == 200


def test_a_body_that_is_too_large_is_refused(client: Client) -> None:
    assert client.post("/api/reviews", review(note="x" * 2_000_000)).status == 413


def test_every_answer_has_the_security_headers(client: Client) -> None:
    for path in ("/", "/static/app.js", "/api/state", "/api/segments/none/row"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "script-src 'self';" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "cache-control" in headers
    assert client.get("/docs").status == 404
    assert client.get("/openapi.json").status == 404


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"language": "fr"}, "'fr' is none of zh, en"),
        ({"emotion": "glad"}, "'glad' is none of happy"),
        ({"events": ["speech", "boom"]}, "'boom' is none of speech"),
        ({"verdict": "withdrawn"}, "withdrawn by undoing"),
        ({"verdict": "perhaps"}, "verdict"),
        ({"segment_id": "none"}, "no segment 'none'"),
        ({"colour": 1}, "colour"),
        ({"revision": 7}, "does not follow 0"),
        ({"text": None}, "text"),
    ],
)
def test_a_correction_that_cannot_be_is_refused(
    client: Client, change: dict[str, Any], words: str
) -> None:
    answer = client.post("/api/reviews", review(**change))
    assert answer.status in (400, 422), answer.content
    assert words in answer.json["error"]["message"]


def test_corrections_conflicts_and_undoing(tmp_path: Path, patience: None) -> None:
    root = write_output(tmp_path)
    store = open_store(root)
    interval = Interval("ann", "v1", 0.0, 2.5)
    with serving(create_app(settings_for(root)), {"authorization": f"Bearer {TOKEN}"}) as client:
        first = review()
        assert client.post("/api/reviews", first).json["revision"] == 1
        assert client.post("/api/reviews", first).json["revision"] == 1  # sent twice, saved once
        late = client.post("/api/reviews", review(text="another's"))
        assert late.status == 409
        assert late.json["error"]["code"] == "conflict"
        assert late.json["error"]["theirs"]["labels"]["text"] == "two better words"
        row = client.get(f"/api/segments/{ANN}/row").json
        assert (row["revision"], row["review"]["text"]) == (1, "two better words")
        assert client.get("/api/facets", where="verdict = 'fixed'").json["n"] == 1
        second = client.post("/api/reviews", review(revision=1, text="second"))
        assert second.json["revision"] == 2
        undone = client.post("/api/reviews/undo", {"segment_id": "ann-000000", "revision": 2})
        assert undone.json["labels"]["text"] == "two better words"
        conflict = client.post("/api/reviews/undo", {"segment_id": "ann-000000", "revision": 2})
        assert conflict.status == 409
        shown = client.get("/api/reviews", segment_id="ann-000000").json["revisions"]
        assert [one["revision"] for one in shown] == [1, 2, 3]
        client.post("/api/reviews", review("bob-000000", text="x"))
        client.post("/api/reviews/undo", {"segment_id": "bob-000000", "revision": 1})
        assert client.get("/api/segments/bob-000000/row").json["review"] is None
        again = client.post("/api/reviews", review("bob-000000", revision=2, text="y"))
        assert again.json["revision"] == 3
    assert [one.labels.text for one in history(store, interval)] == [
        *("two better words", "second", "two better words")
    ]
    # The explorer has ended: its reviews are in the table.
    rows = connect(root).sql("SELECT segment_id, text, verdict FROM segment_reviews ORDER BY 1")
    assert rows.fetchall() == [
        ("ann-000000", "two better words", "fixed"),
        ("bob-000000", "y", "fixed"),
    ]
    assert verify(store).problems == []


def test_ten_reviewers_at_once_save_one_review(tmp_path: Path, patience: None) -> None:
    root = write_output(tmp_path)
    with (
        serving(create_app(settings_for(root)), {"authorization": f"Bearer {TOKEN}"}) as client,
        ThreadPoolExecutor(10) as pool,
    ):
        answers = list(
            pool.map(lambda n: client.post("/api/reviews", review(text=str(n))), range(10))
        )
    assert sorted(answer.status for answer in answers) == [201] + [409] * 9


def test_a_queue_is_frozen_and_its_random_share_tells_accuracy(
    tmp_path: Path, patience: None
) -> None:
    root = write_output(tmp_path)
    with serving(create_app(settings_for(root)), {"authorization": f"Bearer {TOKEN}"}) as client:
        made = client.post("/api/queue", {"size": 6, "share_random": 0.5})
        assert (made.status, made.json["n"], made.json["n_random"]) == (201, 6, 3)
        path = f"/api/queue/{made.json['queue_id']}"
        rows = client.get(path).json["rows"]
        assert len({row["segment_id"] for row in rows}) == 6
        assert [row["segment_id"] for row in client.get(path, rank=2, limit=2).json["rows"]] == [
            row["segment_id"] for row in rows[2:4]
        ]
        for row in rows:
            is_wrong = row["segment_id"] == next(
                one["segment_id"] for one in rows if one["sample"] == "random"
            )
            labels = {
                "verdict": "fixed" if is_wrong else "right",
                "text": "other words here" if is_wrong else row["text"],
                "language": row["language"]["label"],
                "emotion": row["emotion"]["label"],
                "events": [event["event"] for event in row["events"]],
                "sample": row["sample"],
            }
            assert client.post("/api/reviews", review(row["segment_id"], **labels)).status == 201
        found = client.get("/api/accuracy").json
        assert found["n_random"] == 3
        assert found["language"] == {
            "value": 1.0,
            "low": pytest.approx(0.438, abs=1e-3),
            "high": 1.0,
            "n": 3,
        }
        assert found["whole_text"]["value"] == pytest.approx(2 / 3)
        assert client.get("/api/queue/none").status == 400
        assert client.post("/api/queue", {"size": 0}).status == 400


def test_two_models_are_compared_where_they_differ(client: Client) -> None:
    state = client.get("/api/state").json
    (other,) = (one for one in state["fingerprints"] if one != state["fingerprint"])
    found = client.get("/api/differences", other=other, what="text").json
    assert found["n"] == 3
    first = found["rows"][0]
    assert (first["text"], first["other_text"]) == (
        "two words here",
        "two words here differently",
    )
    assert client.get("/api/differences", other=other, what="language").json["n"] == 0
    assert client.get("/api/differences", other="none").status in (400, 503)


def test_read_only_saves_nothing(root: str, patience: None) -> None:
    before = _digest(root)
    settings = settings_for(root, read_only=True)
    with serving(create_app(settings), {"authorization": f"Bearer {TOKEN}"}) as client:
        for path in ("/api/reviews", "/api/reviews/undo", "/api/queue", "/api/sql"):
            assert client.post(path, review()).status == 405
        assert client.get("/api/state").json["read_only"] is True
        assert client.get(f"/api/segments/{ANN}/clip.wav").status == 200
    assert _digest(root) == before


def test_a_request_that_takes_too_long_is_ended_and_the_next_one_answered(
    root: str, patience: None
) -> None:
    settings = settings_for(root, limit_s=3.0)
    with serving(create_app(settings), {"authorization": f"Bearer {TOKEN}"}) as client:
        started = time.monotonic()
        slow = "SELECT length(repeat('x', 2000000000)) + count(*) FROM range(100000000000)"
        answer = client.get("/api/sql", sql=slow)
        assert (answer.status, answer.json["error"]["code"]) == (408, "too_slow")
        assert time.monotonic() - started < 30
        assert client.get("/api/sql", sql="SELECT 1").json["rows"] == [[1]]


def test_the_snapshot_stays_while_commits_happen(tmp_path: Path, patience: None) -> None:
    root = write_output(tmp_path)
    with serving(create_app(settings_for(root)), {"authorization": f"Bearer {TOKEN}"}) as client:
        page = client.get("/api/segments", limit=2).json
        publish_each(open_store(root), "aa0")
        rest = client.get("/api/segments", limit=50, after=page["next"], seq=page["seq"]).json
        ids = [row["segment_id"] for row in page["rows"] + rest["rows"]]
        assert len(ids) == len(set(ids)) == 6
        state = client.get("/api/state").json
        assert state["newest_seq"] > state["seq"]
        assert client.get("/api/segments", seq=99).status == 400
