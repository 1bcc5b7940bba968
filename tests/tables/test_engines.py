"""Ray Data and Spark read the same rows from a snapshot. test_snapshots has the other engines."""

import sys

import pytest

from pipeline.tables import Snapshot


def expected(labelled: Snapshot) -> list[tuple[str, str]]:
    rows = labelled.read("transcripts", ["segment_id", "text"]).to_pylist()
    return sorted((row["segment_id"], row["text"]) for row in rows)


def test_ray_reads_the_same_rows(labelled: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.data
    from ray.data import DataContext

    # DataSourceV2 starts 32 footer readers before the first row, too many for a few files.
    monkeypatch.setattr(DataContext.get_current(), "use_datasource_v2", False)
    read = ray.data.read_parquet(
        labelled.files("transcripts"), columns=["segment_id", "text"], partitioning=None
    )
    assert sorted((row["segment_id"], row["text"]) for row in read.take_all()) == expected(labelled)


@pytest.mark.usefixtures("spark")
def test_spark_reads_the_same_rows(labelled: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyspark.sql import SparkSession

    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    with builder.config("spark.sql.shuffle.partitions", "1").getOrCreate() as spark:
        reader = spark.read.option("recursiveFileLookup", "true")  # no columns from the path
        read = reader.parquet(*labelled.files("transcripts"))
        rows = read.select("segment_id", "text").collect()
        assert sorted((row["segment_id"], row["text"]) for row in rows) == expected(labelled)
        probabilities = spark.read.parquet(*labelled.files("languages")).select("probabilities.*")
        assert probabilities.columns == ["zh", "en", "yue", "ja", "ko", "nospeech"]
        words = spark.read.parquet(*labelled.files("transcripts")).selectExpr("inline(words)")
        assert words.columns == ["word", "start_s", "end_s", "confidence", "peak_s"]
        committed = spark.read.parquet(*labelled.files("recordings")).groupBy("status").count()
        assert {row["status"]: row["count"] for row in committed.collect()} == {
            "ok": 18,
            "error": 2,
        }
