"""Every place in which snapshots can be kept, held to the same."""

from __future__ import annotations

import os
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from hutch.config import Settings
from hutch.errors import HostNotReady, SnapshotFailed, SnapshotStoreUnavailable
from hutch.snapshots.base import SnapshotMissing, SnapshotStore
from hutch.snapshots.open import open_store

BUCKET = "kept"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["directory", "bucket"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SnapshotStore:
    if request.param == "directory":
        return open_store(Settings(data_dir=tmp_path))
    use_s3(request.getfixturevalue("s3"), monkeypatch)
    return open_store(Settings(data_dir=tmp_path, snapshots=f"s3://{BUCKET}/{tmp_path.name}"))


def use_s3(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-operator",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    made = urllib.request.Request(f"{url}/{BUCKET}", method="PUT")  # noqa: S310  our own
    urllib.request.urlopen(made, timeout=10).close()  # noqa: S310  the same


async def pieces(*content: bytes) -> AsyncIterator[bytes]:
    for piece in content:
        yield piece


async def read(store: SnapshotStore, name: str) -> bytes:
    return b"".join([piece async for piece in store.get(name)])


@pytest.mark.parametrize("size", [0, 1, 5_000_000, 17_000_001])
async def test_gives_back_what_it_was_given(store: SnapshotStore, size: int) -> None:
    content = os.urandom(size)
    cut = [content[at : at + 700_001] for at in range(0, size, 700_001)]
    assert await store.put("one", pieces(*cut)) == size
    assert await read(store, "one") == content


async def test_what_breaks_off_is_not_kept(store: SnapshotStore) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield os.urandom(6_000_000)
        raise SnapshotFailed("too much")

    with pytest.raises(SnapshotFailed, match="too much"):
        await store.put("one", breaking())
    assert await store.kept() == []
    with pytest.raises(SnapshotMissing):
        await read(store, "one")


async def test_lists_and_deletes(store: SnapshotStore) -> None:
    assert await store.kept() == []
    await store.put("one", pieces(b"1"))
    await store.put("two", pieces(b"2"))
    kept = {one.name: one.changed_at for one in await store.kept()}
    assert kept.keys() == {"one", "two"}
    assert all(abs(at - time.time()) < 60 for at in kept.values())
    await store.delete("one")
    await store.delete("one")
    assert [one.name for one in await store.kept()] == ["two"]
    with pytest.raises(SnapshotMissing):
        await read(store, "one")


async def test_the_last_one_counts(store: SnapshotStore) -> None:
    await store.put("one", pieces(b"before"))
    await store.put("one", pieces(b"after"))
    assert await read(store, "one") == b"after"


async def test_a_directory_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "snapshots").write_text("a file")
    store = open_store(Settings(data_dir=tmp_path))
    with pytest.raises(SnapshotStoreUnavailable, match="cannot be written"):
        await store.put("one", pieces(b"1"))


async def test_a_bucket_that_is_not_there_is_said(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_s3(s3, monkeypatch)
    store = open_store(Settings(data_dir=tmp_path, snapshots="s3://other"))
    with pytest.raises(SnapshotStoreUnavailable) as raised:
        await store.put("one", pieces(b"1"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    store = open_store(Settings(data_dir=tmp_path, snapshots="s3://kept"))
    with pytest.raises(SnapshotStoreUnavailable):
        await read(store, "one")
    assert "a-secret" not in str(raised.value) + str(raised.value.__context__)


def test_a_wrong_setting_is_said_at_the_start(tmp_path: Path) -> None:
    for wrong in ("s3://", "https://bucket.example/x", "gs://b"):
        with pytest.raises(HostNotReady, match="HUTCH_SNAPSHOTS"):
            open_store(Settings(data_dir=tmp_path, snapshots=wrong))
