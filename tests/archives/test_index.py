"""What is kept of an archive beside the output, and which members count as unchanged."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.archives.index import MemberIndex, from_bytes, superseded, to_bytes
from pipeline.archives.listing import list_archive
from pipeline.archives.members import Listing
from pipeline.archives.opened import Place
from pipeline.archives.read import read_members
from pipeline.errors import RecordingError
from pipeline.storage.address import member_uri
from pipeline.storage.store import Store, open_store
from tests.support.shards import WRITERS, demo_files, write_tar

Known = Mapping[str, set[str]]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def list_one(path: Path, store: Store | None, known: Known | None = None) -> Listing:
    index = MemberIndex({}, store, lambda archives: known or {}, writes=True)
    (listing,) = index.list_all([str(path)])
    assert listing is not None
    return listing


def versions(listing: Listing) -> dict[str, str]:
    rows = listing.members.to_pylist()
    return {row["name"]: row["version"] for row in rows}


def read_versions(path: Path, listing: Listing) -> dict[str, set[str]]:
    """As the ledger has them after a run: address -> version of the bytes that were read."""
    rows = listing.members.to_pylist()
    places = [Place(row["name"], row["start"], row["bytes"]) for row in rows]
    found = {}
    for place, item in zip(places, read_members(str(path), places, {}, 1 << 30), strict=True):
        assert not isinstance(item, RecordingError)
        found[member_uri(listing.kind, place.name, str(path))] = {item.version}
    return found


@pytest.mark.parametrize("name", WRITERS)
def test_a_member_keeps_its_version_while_its_bytes_are_the_same(
    name: str, store: Store, tmp_path: Path
) -> None:
    write, path, files = WRITERS[name], tmp_path / name, demo_files(3)
    before = list_one(write(path, files), store)
    known = read_versions(path, before)
    first, second, third = files
    changed = {"0.wav": files[first]} | files | {second: files[second][:-1] + b"!"}
    after = list_one(write(path, changed), store, known)
    old, new = versions(before), versions(after)
    assert {one for one in old if old[one] == new[one]} == {first, third}
    assert new["0.wav"] not in old.values() or name.endswith("zip")
    again = versions(list_one(write(path, changed | {"1.wav": b"x"}), store))
    assert {one for one in new if new[one] == again[one]} == {*new}  # by what was kept alone


def test_a_content_that_was_labelled_twice_is_not_certain(store: Store, tmp_path: Path) -> None:
    """Two settings saw two contents of one member; no version says which labels it would get."""
    files = demo_files(2)
    path = write_tar(tmp_path / "a.tar", files)
    before = list_one(path, store)
    known = read_versions(path, before)
    first, second = files
    known[member_uri("tar", first, str(path))].add("another")
    after = versions(list_one(write_tar(path, files | {"z.wav": b"z"}), store, known))
    assert after[first] != versions(before)[first]
    assert after[second] == versions(before)[second]


def test_what_is_kept_is_the_listing(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a.npy": b"x"} | demo_files(2))
    path.write_bytes(path.read_bytes()[:-10_240])
    listing = list_archive(str(path), {})
    assert listing is not None
    kept = from_bytes(to_bytes(listing))
    assert (kept.kind, kept.skipped, kept.damage) == ("tar", {".npy": 1}, listing.damage)
    assert kept.members.equals(listing.members)


def test_one_object_is_kept_for_each_version(store: Store, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", demo_files(1))
    for _ in range(2):
        list_one(path, store)
    assert len(store.list("_members/")) == 1
    write_tar(path, demo_files(2))
    list_one(path, store)
    first, second = store.list("_members/")
    assert superseded([second, first]) == [first]


def test_a_plan_that_may_not_write_keeps_nothing(store: Store, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", demo_files(1))
    list(MemberIndex({}, store).list_all([str(path)]))
    assert store.list("_members/") == []


def test_a_damaged_object_is_made_again(store: Store, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", demo_files(2))
    before = list_one(path, store)
    (key,) = store.list("_members/")
    store.put(key, b"damaged")
    assert versions(list_one(path, store)) == versions(before)


def test_many_archives_are_listed_in_their_order(tmp_path: Path) -> None:
    paths = [write_tar(tmp_path / f"{n}.tar", {f"{n}.wav": b"x"}) for n in range(40)]
    listings: list[Any] = list(MemberIndex({}).list_all([*map(str, paths)]))
    assert [one.members["name"][0].as_py() for one in listings] == [f"{n}.wav" for n in range(40)]
