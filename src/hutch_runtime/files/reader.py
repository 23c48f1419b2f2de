"""Reads a tar archive that anybody may have made, as it comes. Pure: what it finds goes to a sink.

It takes what people pack: files, directories, links to what is inside, long names (GNU's and
pax's). All else is refused at its header, before the sink hears of it: paths that lead out, devices
and pipes, sparse files, which unpack to more than they hold, and more than the limits say.

A link's target may go up at its beginning alone, and no further than the archive: since each one is
in a real directory (the sink makes and enters no other), none leads out by way of another.

Formats: POSIX.1-2017 pax (ustar with extended headers), and the GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

from hutch_runtime.files.refusal import FileRefused
from hutch_runtime.protocol import (
    ARCHIVE_ENTRIES_MAX,
    FILE_NAME_MAX_BYTES,
    FILE_PATH_MAX_BYTES,
    KIB,
)

Path: TypeAlias = tuple[bytes, ...]

BLOCK: Final = 512
_EXTENSION_MAX: Final = 64 * KIB  # of one extended header, or long name
_STEP: Final = 256 * KIB  # unpacked at once of what is compressed
_OTHER_FORMATS: Final = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_GZIP: Final = b"\x1f\x8b"
_OCTAL: Final = re.compile(rb"[0-7]*")
_DECIMAL: Final = re.compile(rb"[0-9]{1,12}(\.[0-9]{0,12})?")
_MTIME_MAX: Final = 1 << 34


class Sink(Protocol):
    """Raises ``FileRefused``."""

    def directory(self, path: Path, mode: int) -> None: ...
    def file(self, path: Path, mode: int, mtime: int, size: int) -> None: ...
    def data(self, piece: memoryview) -> None:
        """Of the last file, until it has its size."""
        ...

    def file_end(self) -> None: ...
    def link(self, path: Path, target: bytes) -> None: ...
    def hard_link(self, path: Path, target: Path) -> None: ...


@dataclass(slots=True)
class _Extended:
    """What the headers before a member's own say of it."""

    path: bytes | None = None
    target: bytes | None = None
    size: int | None = None
    mtime: int | None = None


@dataclass(slots=True)
class _Body:
    """Bytes that follow a header, and where they go."""

    left: int
    padding: int
    take: Callable[[memoryview], None]
    done: Callable[[], None]


@dataclass(slots=True)
class TarReader:
    """``feed`` what there is, then ``close``. ``bytes_max``: of all files together."""

    sink: Sink
    bytes_max: int
    entries: int = 0
    size: int = 0
    _seen: int = 0
    _headers: int = 0
    _start: bytes = b""
    _unzip: zlib._Decompress | None = None
    _begun: bool = False
    _rest: bytearray = field(default_factory=bytearray)
    _body: _Body | None = None
    _extended: _Extended = field(default_factory=_Extended)
    _collected: bytearray = field(default_factory=bytearray)
    _ended: bool = False

    def feed(self, piece: bytes) -> None:
        """Raises ``FileRefused``."""
        if not self._begun:
            self._start += piece
            if len(self._start) < 6:
                return
            piece, self._start = self._start, b""
            self._begin(piece)
        if self._unzip is None:
            self._take(piece)
            return
        try:
            while piece and not self._unzip.eof:
                self._take(self._unzip.decompress(piece, _STEP))
                piece = self._unzip.unconsumed_tail
        except zlib.error:
            raise _bad("its compression is broken") from None

    def close(self) -> None:
        """Raises ``FileRefused`` where it is not whole."""
        if self._unzip is not None and not self._unzip.eof:
            raise _bad("it breaks off")
        if not self._ended:
            raise _bad("it breaks off" if self._headers else "it is empty, or no tar archive")

    def _begin(self, piece: bytes) -> None:
        self._begun = True
        for magic, words in _OTHER_FORMATS.items():
            if piece.startswith(magic):
                raise _bad(f"it is compressed with {words}; send plain tar, or with gzip")
        if piece.startswith(_GZIP):
            self._unzip = zlib.decompressobj(wbits=31)

    def _take(self, piece: bytes) -> None:
        self._seen += len(piece)
        # Headers and padding besides what is in files; whatever says more is no archive but a bomb.
        if self._seen > self.bytes_max + 8 * BLOCK * ARCHIVE_ENTRIES_MAX:
            raise FileRefused("file_too_large", "The archive unpacks to more than it may.")
        if self._ended:
            return  # what comes after the end is padding
        view = memoryview(piece)
        while view and not self._ended:
            if self._body is not None:
                view = self._go_on(self._body, view)
                continue
            wanted = BLOCK - len(self._rest)
            self._rest += view[:wanted]
            view = view[wanted:]
            if len(self._rest) == BLOCK:
                header = bytes(self._rest)
                self._rest.clear()
                self._header(header)

    def _go_on(self, body: _Body, view: memoryview) -> memoryview:
        if body.left:
            part = view[: body.left]
            body.left -= len(part)
            body.take(part)
            view = view[len(part) :]
        if not body.left:
            skipped = min(body.padding, len(view))
            body.padding -= skipped
            view = view[skipped:]
            if not body.padding:
                self._body = None
                body.done()
        return view

    def _header(self, header: bytes) -> None:
        if not any(header):
            self._ended = True
            return
        self._headers += 1
        if self._headers > 4 * ARCHIVE_ENTRIES_MAX:
            raise _too_many()
        if _number(header[148:156]) != sum(header) - sum(header[148:156]) + 8 * 32:
            raise _bad("it is no tar archive, or a header of it is broken")
        kind = header[156:157]
        size = _number(header[124:136])
        if kind in {b"x", b"g", b"L", b"K"}:
            self._extension(kind, size)
            return
        extended, self._extended = self._extended, _Extended()
        self.entries += 1
        if self.entries > ARCHIVE_ENTRIES_MAX:
            raise _too_many()
        self._member(header, kind, size, extended)

    def _extension(self, kind: bytes, size: int) -> None:
        if size > _EXTENSION_MAX:
            raise _bad("an extended header is too long")
        self._collected.clear()

        def done() -> None:
            content = bytes(self._collected)
            if kind == b"L":
                self._extended.path = content.rstrip(b"\0")
            elif kind == b"K":
                self._extended.target = content.rstrip(b"\0")
            else:
                _read_pax(content, self._extended if kind == b"x" else None)

        self._expect(size, self._collected.extend, done)

    def _member(self, header: bytes, kind: bytes, size: int, extended: _Extended) -> None:
        path = read_path(extended.path if extended.path is not None else _name(header))
        mode = _number(header[100:108]) & 0o777
        mtime = extended.mtime if extended.mtime is not None else _number(header[136:148])
        size = size if extended.size is None else extended.size
        target = extended.target if extended.target is not None else _text(header[157:257])
        # Before POSIX a directory was a file whose name ends with a slash.
        if kind == b"\0" and _text(header[:100]).endswith(b"/"):
            kind = b"5"
        if kind == b"5":
            if path:
                self.sink.directory(path, mode | 0o700)
            else:
                self.entries -= 1  # that of where it is unpacked
        elif not path:
            raise _bad("a file in it has no name")
        elif kind in {b"\0", b"0", b"7"}:
            self._file(path, mode | 0o600, min(mtime, _MTIME_MAX), size)
        elif kind == b"2":
            self.sink.link(path, _checked_target(path, target))
        elif kind == b"1":
            hard = read_path(target)
            if not hard:
                raise _bad(f"{_shown(path)} is a hard link to nothing")
            self.sink.hard_link(path, hard)
        else:
            raise _bad(f"{_shown(path)} is {_KINDS.get(kind, 'of a kind that is not taken')}")

    def _file(self, path: Path, mode: int, mtime: int, size: int) -> None:
        self.size += size
        if self.size > self.bytes_max:
            raise FileRefused(
                "file_too_large",
                f"The files in the archive have more than {self.bytes_max} bytes together, the "
                "most that can be taken.",
            )
        self.sink.file(path, mode, mtime, size)
        self._expect(size, self.sink.data, self.sink.file_end)

    def _expect(
        self, size: int, take: Callable[[memoryview], None], done: Callable[[], None]
    ) -> None:
        if size:
            self._body = _Body(size, -size % BLOCK, take, done)
        else:
            done()


_KINDS: Final = {
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "a sparse file, which are not taken",
}


def read_path(given: bytes) -> Path:
    """Its parts. Raises ``FileRefused`` for one that may lead out."""
    parts = tuple(part for part in given.split(b"/") if part not in {b"", b"."})
    if given.startswith(b"/") or b".." in parts or b"\0" in given:
        raise _bad(f"{_shown((given,))} would be outside of the directory that it is unpacked in")
    if len(given) > FILE_PATH_MAX_BYTES or any(len(p) > FILE_NAME_MAX_BYTES for p in parts):
        raise _bad(f"the path {_shown((given,))} is too long")
    return parts


def _checked_target(path: Path, target: bytes) -> bytes:
    parts = [part for part in target.split(b"/") if part not in {b"", b"."}]
    ups = next((at for at, part in enumerate(parts) if part != b".."), len(parts))
    inside = ups <= len(path) - 1 and b".." not in parts[ups:]
    if not target or target.startswith(b"/") or b"\0" in target or not inside:
        raise _bad(f"the link {_shown(path)} leads out of the directory that it is unpacked in")
    if len(target) > FILE_PATH_MAX_BYTES:
        raise _bad(f"the target of the link {_shown(path)} is too long")
    return target


def _read_pax(content: bytes, extended: _Extended | None) -> None:
    """Records of ``length keyword=value``; None: those for all members, of which none matters."""
    while content.rstrip(b"\0"):
        length, space, _ = content[:20].partition(b" ")
        if not space or not length.isdigit() or not 0 < int(length) <= len(content):
            raise _bad("an extended header is broken")
        record, content = content[len(length) + 1 : int(length)], content[int(length) :]
        keyword, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise _bad("an extended header is broken")
        value = value[:-1]
        if keyword.startswith(b"GNU.sparse"):
            raise _bad("it has sparse files, which are not taken")
        if keyword in {b"path", b"linkpath", b"size", b"mtime"}:
            if extended is None:
                if keyword != b"mtime":
                    raise _bad("an extended header names all its members alike")
                continue
            _set(extended, keyword, value)


def _set(extended: _Extended, keyword: bytes, value: bytes) -> None:
    if keyword == b"path":
        extended.path = value
    elif keyword == b"linkpath":
        extended.target = value
    elif keyword == b"size":
        if not value.isdigit() or len(value) > 15:
            raise _bad("an extended header is broken")
        extended.size = int(value)
    elif _DECIMAL.fullmatch(value):
        extended.mtime = int(value.partition(b".")[0])


def _name(header: bytes) -> bytes:
    name, prefix = _text(header[:100]), _text(header[345:500])
    is_ustar = header[257:263] == b"ustar\0"  # GNU's own format has other things there
    return prefix + b"/" + name if is_ustar and prefix else name


def _text(raw: bytes) -> bytes:
    return raw.partition(b"\0")[0]


def _number(raw: bytes) -> int:
    """Octal, or in base 256 where the first bit is set."""
    if raw[0] & 0x80:
        value = int.from_bytes(raw, "big") & ((1 << (8 * len(raw) - 1)) - 1)
        if raw[0] & 0x40:  # negative
            return 0
        return value
    digits = raw.partition(b"\0")[0].strip()
    if not _OCTAL.fullmatch(digits):
        raise _bad("a header of it is broken")
    return int(digits or b"0", 8)


def _shown(path: Path) -> str:
    return repr(b"/".join(path)[:200].decode(errors="replace"))


def _bad(what: str) -> FileRefused:
    return FileRefused("invalid_archive", f"The archive is not unpacked: {what}.")


def _too_many() -> FileRefused:
    words = f"it has more than {ARCHIVE_ENTRIES_MAX} entries"
    return _bad(words)
