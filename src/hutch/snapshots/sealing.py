"""A snapshot's outer form: zstd, then AES-256-GCM in chunks that can't be moved, left out or cut.

Each chunk but the last holds ``CHUNK`` bytes of compressed archive. Its number is its nonce (a key
is used for one snapshot only), and whether it is the last is authenticated with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

CHUNK: Final = 1024 * 1024
_TAG: Final = 16
_LEVEL: Final = 1  # 3 takes half as long again, for some 5 % less


class DoesNotUnseal(Exception):
    """It was changed, cut, or sealed with another key."""


async def seal(pieces: AsyncIterator[bytes], key: bytes, name: str) -> AsyncIterator[bytes]:
    cipher, compressor = AESGCM(key), zstandard.ZstdCompressor(level=_LEVEL).compressobj()
    waiting, number = bytearray(), 0
    async for piece in pieces:
        waiting += await asyncio.to_thread(compressor.compress, piece)
        while len(waiting) > CHUNK:
            yield await asyncio.to_thread(_encrypt, cipher, name, number, waiting[:CHUNK], False)
            del waiting[:CHUNK]
            number += 1
    waiting += await asyncio.to_thread(compressor.flush)
    while len(waiting) > CHUNK:
        yield await asyncio.to_thread(_encrypt, cipher, name, number, waiting[:CHUNK], False)
        del waiting[:CHUNK]
        number += 1
    yield await asyncio.to_thread(_encrypt, cipher, name, number, waiting, True)


async def unseal(pieces: AsyncIterator[bytes], key: bytes, name: str) -> AsyncIterator[bytes]:
    """Raises ``DoesNotUnseal``, at the latest after the last piece."""
    cipher, expander = AESGCM(key), zstandard.ZstdDecompressor().decompressobj()
    waiting, number = bytearray(), 0
    async for piece in pieces:
        waiting += piece
        while len(waiting) > CHUNK + _TAG:
            chunk = bytes(waiting[: CHUNK + _TAG])
            del waiting[: CHUNK + _TAG]
            opened = await asyncio.to_thread(_decrypt, cipher, name, number, chunk, False)
            yield await asyncio.to_thread(expander.decompress, opened)
            number += 1
    opened = await asyncio.to_thread(_decrypt, cipher, name, number, bytes(waiting), True)
    yield await asyncio.to_thread(expander.decompress, opened)
    if not expander.eof:
        raise DoesNotUnseal("it is not whole")


def _encrypt(cipher: AESGCM, name: str, number: int, chunk: bytearray, last: bool) -> bytes:  # noqa: FBT001  (to_thread takes it by place)
    return cipher.encrypt(number.to_bytes(12), bytes(chunk), _binding(name, last=last))


def _decrypt(cipher: AESGCM, name: str, number: int, chunk: bytes, last: bool) -> bytes:  # noqa: FBT001  (the same)
    try:
        return cipher.decrypt(number.to_bytes(12), chunk, _binding(name, last=last))
    except (InvalidTag, ValueError) as error:
        raise DoesNotUnseal("a part of it was changed, or is missing") from error


def _binding(name: str, *, last: bool) -> bytes:
    return f"hutch snapshot v1\0{name}\0{last:d}".encode()
