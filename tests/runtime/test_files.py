"""Files below the workspace, by the runtime's own endpoints: what is done, what is refused."""

from __future__ import annotations

import io
import json
import os
import socket
import tarfile
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from hutch_runtime.files.routes import FileRoutes
from hutch_runtime.files.tree import DRAFT, Tree
from hutch_runtime.identity import Identity

SECRET = "a login of theirs"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The workspace; beside it is what nobody may reach."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "secret").write_text(SECRET)
    (tmp_path / "workspace").mkdir()
    return tmp_path / "workspace"


@pytest.fixture
async def http(root: Path) -> AsyncIterator[httpx2.AsyncClient]:
    routes = FileRoutes(Tree(root, Identity())).all()
    app = Starlette(routes=[Route(path, end, methods=[how]) for path, how, end in routes])
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://runtime") as client:
        yield client


def code(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("error", {}).get("code", "")


async def names(http: httpx2.AsyncClient, path: str = "") -> list[str]:
    answer = await http.get("/files", params={"path": path})
    return [entry["name"] for entry in answer.json()["entries"]]


def entries(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def nothing_is_left(root: Path) -> bool:
    return not [path for path in root.rglob("*") if path.name.startswith(DRAFT)]


async def test_what_is_written_is_read(http: httpx2.AsyncClient, root: Path) -> None:
    content = os.urandom(700_000)
    answer = await http.put("/files/content", params={"path": "a/b/c"}, content=content)
    assert answer.json()["made"] is True
    assert (root / "a/b/c").read_bytes() == content
    read = await http.get("/files/content", params={"path": "a/b/c"})
    assert read.content == content
    assert json.loads(read.headers["x-hutch-file"])["tag"] == answer.json()["entry"]["tag"]
    (root / "a/b/c").chmod(0o750)
    answer = await http.put("/files/content", params={"path": "a/b/c"}, content=b"other")
    assert answer.json()["made"] is False
    assert (root / "a/b/c").stat().st_mode & 0o777 == 0o750
    assert nothing_is_left(root)


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ({"first": 2, "last": 4}, b"234"),
        ({"first": 7}, b"789"),
        ({"first": 7, "last": 99}, b"789"),
        ({"suffix": 3}, b"789"),
        ({"suffix": 99}, b"0123456789"),
        ({"first": 3, "if_tag": "of another one"}, b"0123456789"),
        ({"first": 10}, None),
        ({"suffix": 0}, None),
        ({"first": 5, "last": 4}, None),
    ],
)
async def test_parts_of_a_file(
    http: httpx2.AsyncClient, root: Path, asked: dict[str, Any], got: bytes | None
) -> None:
    (root / "f").write_bytes(b"0123456789")
    answer = await http.get("/files/content", params={"path": "f", **asked})
    if got is None:
        assert code(answer) == (416, "invalid_range")
    else:
        assert answer.content == got


async def test_a_listing_comes_in_pages_by_name(http: httpx2.AsyncClient, root: Path) -> None:
    for name in ("b", "a", "d\n", "c\x1b[2J"):
        (root / name).write_text("x")
    (root / "e").mkdir()
    (root / "f").symlink_to("../home/secret")
    os.mkfifo(root / "g")
    (root / os.fsdecode(b"h\xff")).write_text("y")
    found = []
    after = ""
    while True:
        page = (await http.get("/files", params={"limit": 3, "after": after})).json()
        assert len(page["entries"]) <= 3
        found += page["entries"]
        if page["next"] is None:
            break
        after = page["next"]
    assert [e["name"] for e in found] == ["a", "b", "c\x1b[2J", "d\n", "e", "f", "g", "h\ufffd"]
    kinds = [e["type"] for e in found]
    assert kinds == ["file"] * 4 + ["directory", "link", "other", "file"]
    assert [e["reachable"] for e in found] == [True] * 7 + [False]
    assert (found[0]["size"], found[5]["target"]) == (1, "../home/secret")


async def test_what_is_expected_of_the_file_is_checked(
    http: httpx2.AsyncClient, root: Path
) -> None:
    async def put(content: bytes, **asked: str) -> httpx2.Response:
        return await http.put("/files/content", params={"path": "f", **asked}, content=content)

    assert code(await put(b"1", if_tag="*")) == (412, "precondition_failed")
    tag = (await put(b"1", new="1")).json()["entry"]["tag"]
    assert code(await put(b"2", new="1")) == (412, "precondition_failed")
    assert code(await put(b"2", if_tag="another")) == (412, "precondition_failed")
    assert (root / "f").read_bytes() == b"1"
    assert (await put(b"2", if_tag=tag)).status_code == 200
    assert code(await put(b"3", if_tag=tag)) == (412, "precondition_failed")
    assert (root / "f").read_bytes() == b"2"

    async def slowly() -> AsyncIterator[bytes]:
        yield b"3"
        (root / "f").write_bytes(b"the agent's own")

    tag = (await http.get("/files")).json()["entries"][0]["tag"]
    answer = await http.put("/files/content", params={"path": "f", "if_tag": tag}, content=slowly())
    assert code(answer) == (412, "precondition_failed")
    assert (root / "f").read_bytes() == b"the agent's own"
    assert nothing_is_left(root)


async def test_who_breaks_off_has_changed_nothing(http: httpx2.AsyncClient, root: Path) -> None:
    (root / "f").write_bytes(b"before")

    async def breaks_off() -> AsyncIterator[bytes]:
        yield b"x" * 600_000
        raise ConnectionError

    for path in ("/files/content", "/files/archive"):
        with pytest.raises(ConnectionError):
            await http.put(path, params={"path": "f"}, content=breaks_off())
    assert (root / "f").read_bytes() == b"before"
    assert nothing_is_left(root)


async def test_what_does_not_fit_is_refused_before_it_is_written(
    http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hutch_runtime.files.tree._free", lambda _: 1000)
    answer = await http.put("/files/content", params={"path": "f"}, content=b"x" * 1001)
    assert code(answer) == (413, "no_space")
    archive = archive_of({"big": b"x" * 1001})
    answer = await http.put("/files/archive", content=archive)
    assert code(answer) == (413, "file_too_large")
    assert await names(http) == []
    assert (await http.put("/files/content", params={"path": "f"}, content=b"x")).is_success


async def test_things_are_moved_and_removed(http: httpx2.AsyncClient, root: Path) -> None:
    async def move(path: str, to: str, *, overwrite: bool = False) -> httpx2.Response:
        body = {"path": path, "to": to, "overwrite": overwrite}
        return await http.post("/files/move", json=body)

    async def remove(path: str, **asked: str) -> httpx2.Response:
        return await http.delete("/files", params={"path": path, **asked})

    (root / "d/e").mkdir(parents=True)
    (root / "d/e/f").write_text("1")
    (root / "g").write_text("2")
    assert code(await move("g", "d/e/f")) == (409, "file_exists")
    assert (await move("g", "d/e/f", overwrite=True)).is_success
    assert (root / "d/e/f").read_text() == "2"
    assert (await move("d/e", "new/place")).is_success
    assert code(await move("new", "new/place/inside")) == (400, "invalid_path")
    assert code(await move("none", "x")) == (404, "file_not_found")
    assert code(await remove("new")) == (409, "directory_not_empty")
    assert code(await remove("none")) == (404, "file_not_found")
    for path in ("", ".", "/workspace"):
        assert code(await remove(path, recursive="1")) == (400, "invalid_path")
    assert (await remove("new", recursive="1")).is_success
    assert (await remove("d")).is_success
    assert await names(http) == []
    deep = root / "deep"
    for _ in range(100):
        deep = deep / ("x" * 30)
    deep.mkdir(parents=True)
    assert (await remove("deep", recursive="1")).is_success
    assert nothing_is_left(root)


@pytest.mark.parametrize("path", ["link/secret", "out", "loop", "fifo", "socket", "dir", "f/x", ""])
async def test_only_ordinary_files_are_read_and_written(
    http: httpx2.AsyncClient, root: Path, path: str
) -> None:
    (root / "link").symlink_to("../home")
    (root / "out").symlink_to("../home/secret")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "fifo")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(root / "socket"))
    listening.close()
    (root / "dir").mkdir()
    (root / "f").write_text("x")
    status, why = code(await http.get("/files/content", params={"path": path}))
    assert (status, why) in {
        (400, "not_a_file"),
        (400, "is_a_directory"),
        (400, "not_a_directory"),
    }
    answer = await http.put("/files/content", params={"path": path}, content=b"mine")
    assert code(answer) == (status, why)
    assert (root / "../home/secret").read_text() == SECRET
    assert nothing_is_left(root)


@pytest.mark.parametrize("how", ["list", "pack", "remove", "from", "to"])
async def test_no_link_leads_anywhere(http: httpx2.AsyncClient, root: Path, how: str) -> None:
    (root / "home").symlink_to("../home")
    (root / "mine").write_text("x")
    params = {"path": "home/secret" if how == "remove" else "home"}
    match how:
        case "list":
            answer = await http.get("/files", params=params)
        case "pack":
            answer = await http.get("/files/archive", params=params)
        case "remove":
            answer = await http.delete("/files", params=params)
        case "from":
            answer = await http.post("/files/move", json={"path": "home/secret", "to": "got"})
        case _:
            answer = await http.post("/files/move", json={"path": "mine", "to": "home/new"})
    assert code(answer) == (400, "not_a_directory")
    assert entries(root / "../home") == ["secret"]
    assert (await http.delete("/files", params={"path": "home"})).is_success  # the link itself
    assert (root / "../home/secret").read_text() == SECRET


@pytest.mark.parametrize(
    "path", ["../home/secret", "a/../../home/secret", "/etc/passwd", "a\0b", "x" * 256, "y/" * 2001]
)
async def test_a_path_that_leads_out_or_is_none(http: httpx2.AsyncClient, path: str) -> None:
    assert code(await http.get("/files/content", params={"path": path})) == (400, "invalid_path")


async def test_a_race_gains_nothing(http: httpx2.AsyncClient, root: Path) -> None:
    """Somebody swaps a directory and a link to where secrets are, all the time."""
    (root / "real").mkdir()
    (root / "real/secret").write_text("mine")
    (root / "link").symlink_to("../home")
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            for source in ("real", "link"):
                try:
                    (root / source).rename(root / "d")
                    (root / "d").rename(root / source)
                except OSError:
                    continue

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for at in range(150):
            read = await http.get("/files/content", params={"path": "d/secret"})
            assert SECRET not in read.text
            await http.put("/files/content", params={"path": "d/secret"}, content=b"mine")
            await http.put(
                "/files/archive", params={"path": "d"}, content=archive_of({"secret": b"mine"})
            ) if at % 10 == 0 else None
            await http.delete("/files", params={"path": "d/secret"})
    finally:
        done.set()
        swapping.join()
    assert (root / "../home/secret").read_text() == SECRET
    assert entries(root / "../home") == ["secret"]


# Archives


def archive_of(files: dict[str, bytes], *, mode: str = "w") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return made.getvalue()


def archive_with(*members: tarfile.TarInfo) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)) if member.isreg() else None)
    return made.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    for field, value in fields.items():
        setattr(made, field, value)
    return made


async def test_a_directory_goes_out_and_in_elsewhere(http: httpx2.AsyncClient, root: Path) -> None:
    source = root / "from"
    (source / "sub/empty").mkdir(parents=True)
    (source / "sub/run.sh").write_bytes(os.urandom(300_000))
    (source / "sub/run.sh").chmod(0o755)
    (source / ("long" * 60)).write_text("named at length")
    (source / os.fsdecode(b"no\xffutf8 \n")).write_text("x")
    (source / "link").symlink_to("sub/run.sh")
    (source / "sub/up").symlink_to("../link")
    os.link(source / "sub/run.sh", source / "again")
    os.utime(source / "sub/run.sh", (1_000_000_000, 1_000_000_000))
    out = await http.get("/files/archive", params={"path": "from"})
    assert out.content == (await http.get("/files/archive", params={"path": "from"})).content
    (root / "to/sub").mkdir(parents=True)
    (root / "to/sub/kept").write_text("mine")
    answer = await http.put("/files/archive", params={"path": "to"}, content=out.content)
    assert answer.json()["entries"] == 8, answer.text
    target = root / "to"
    assert (target / "sub/run.sh").read_bytes() == (source / "sub/run.sh").read_bytes()
    assert (target / "sub/run.sh").stat().st_mode & 0o777 == 0o755
    assert (target / "sub/run.sh").stat().st_mtime == 1_000_000_000
    assert (target / "again").stat().st_ino == (target / "sub/run.sh").stat().st_ino
    assert (target / "link").readlink() == Path("sub/run.sh")
    assert (target / "sub/empty").is_dir()
    assert (target / "sub/kept").read_text() == "mine"
    assert {os.fsencode(p.name) for p in source.iterdir()} <= {
        os.fsencode(p.name) for p in target.iterdir()
    }
    assert nothing_is_left(root)


@pytest.mark.parametrize(
    "style", ["gz", tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT]
)
async def test_what_other_programs_pack_is_taken(
    http: httpx2.AsyncClient, root: Path, style: Any
) -> None:
    made = io.BytesIO()
    options: dict[str, Any] = {"mode": "w:gz"} if style == "gz" else {"mode": "w", "format": style}
    with tarfile.open(fileobj=made, **options) as tar:
        for name in ("a", "dir/" * 20 + "b", "ü/ö"):
            one = member(name, size=3, mtime=1234567890.25 if style == tarfile.PAX_FORMAT else 1)
            tar.addfile(one, io.BytesIO(b"abc"))
    answer = await http.put("/files/archive", content=made.getvalue())
    assert answer.json() == {"entries": 3, "bytes": 9}
    assert (root / ("dir/" * 20) / "b").read_text() == (root / "ü/ö").read_text() == "abc"


REFUSED: list[tuple[str, Callable[[], bytes]]] = [
    ("absolute", lambda: archive_with(member("/etc/x"))),
    ("dots", lambda: archive_with(member("a/../../x"))),
    ("dots inside", lambda: archive_with(member("a/../b"))),
    ("link out", lambda: archive_with(member("l", tarfile.SYMTYPE, linkname="../x"))),
    ("link to root", lambda: archive_with(member("l", tarfile.SYMTYPE, linkname="/etc"))),
    (
        "links that lead out together",
        lambda: archive_with(
            member("a/b/up", tarfile.SYMTYPE, linkname="../.."),
            member("z", tarfile.SYMTYPE, linkname="a/b/up/.."),
        ),
    ),
    (
        "through a link",
        lambda: archive_with(
            member("d", tarfile.DIRTYPE, mode=0o755),
            member("l", tarfile.SYMTYPE, linkname="d"),
            member("l/x"),
        ),
    ),
    (
        "hard link out",
        lambda: archive_with(member("h", tarfile.LNKTYPE, linkname="../home/secret")),
    ),
    ("hard link to nothing", lambda: archive_with(member("h", tarfile.LNKTYPE, linkname="none"))),
    (
        "hard link to a link",
        lambda: archive_with(
            member("l", tarfile.SYMTYPE, linkname="x"), member("h", tarfile.LNKTYPE, linkname="l")
        ),
    ),
    ("device", lambda: archive_with(member("dev", tarfile.CHRTYPE))),
    ("pipe", lambda: archive_with(member("pipe", tarfile.FIFOTYPE))),
    ("sparse", lambda: archive_with(member("s", tarfile.GNUTYPE_SPARSE))),
    (
        "sparse by pax",
        lambda: archive_with(member("s", pax_headers={"GNU.sparse.major": "1"})),
    ),
    ("file and directory", lambda: archive_with(member("x"), member("x/y"))),
    ("nonsense", lambda: b"\x01" * 5000),
    ("empty", lambda: b""),
    ("cut", lambda: archive_of({"a": b"x" * 5000})[:3000]),
    ("cut gzip", lambda: archive_of({"a": os.urandom(5000)}, mode="w:gz")[:3000]),
    ("xz", lambda: archive_of({"a": b"x"}, mode="w:xz")),
    ("a file in the way", lambda: archive_with(member("there", tarfile.DIRTYPE, mode=0o755))),
]


@pytest.mark.parametrize(("what", "make"), REFUSED, ids=[what for what, _ in REFUSED])
async def test_an_archive_that_is_refused_changes_nothing(
    http: httpx2.AsyncClient, root: Path, what: str, make: Callable[[], bytes]
) -> None:
    (root / "there").write_text("mine")
    content = make()
    if content and not content.startswith((b"\x1f", b"\xfd", b"\x01")) and "cut" not in what:
        content = archive_of({"first": b"innocent"})[:1024] + content
    answer = await http.put("/files/archive", content=content)
    expected = (409, "file_exists") if what == "a file in the way" else (400, "invalid_archive")
    assert code(answer) == expected, answer.text
    assert await names(http) == ["there"]
    assert entries(root / "../home") == ["secret"]
    assert (root / "../home/secret").stat().st_nlink == 1


async def test_bombs_are_refused_by_what_they_say(
    http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hutch_runtime.files.tree._free", lambda _: 1 << 20)
    monkeypatch.setattr("hutch_runtime.files.reader.ARCHIVE_ENTRIES_MAX", 300)
    many = archive_with(*(member(f"f{at}") for at in range(301)))
    assert code(await http.put("/files/archive", content=many)) == (400, "invalid_archive")
    large = archive_of({"zeros": bytes(2 << 20)}, mode="w:gz")
    assert len(large) < 10_000
    assert code(await http.put("/files/archive", content=large)) == (413, "file_too_large")
    padded = archive_of({"a": b"x"}) + bytes(8 << 20)
    assert code(await http.put("/files/archive", content=padded)) == (413, "file_too_large")
    assert await names(http) == []
