"""Images in messages, which a run has as attachments. None is fetched from anywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hutch.errors import InvalidRequest, UnsupportedParameter
from hutch_runtime.protocol import IMAGE_TYPES, Attachment, OptionError, read_attachments

KINDS: Final = frozenset({"image_url", "input_image", "image"})


@dataclass(frozen=True, slots=True)
class Picture:
    media_type: str
    data: str  # base64

    @property
    def name(self) -> str:
        """Of its file. One that is sent again, as chat clients do, has the same."""
        digest = hashlib.sha256(self.data.encode(errors="replace")).hexdigest()[:12]
        return f"image-{digest}.{self.media_type.removeprefix('image/')}"


def picture_of(part: Mapping[str, Any], *, place: str) -> Picture:
    """Of a part whose type is in ``KINDS``. Raises ``UnsupportedParameter``."""
    if part["type"] == "image":
        source = part.get("source")
        given = source if isinstance(source, Mapping) else {}
        if given.get("type") != "base64":
            raise _elsewhere(place)
        media_type, data = given.get("media_type"), given.get("data")
    else:
        held = part.get("image_url")
        url = held.get("url") if isinstance(held, Mapping) else held
        if not isinstance(url, str) or not url[:5].lower() == "data:":
            raise _elsewhere(place)
        head, _, data = url[5:].partition(",")
        media_type, _, coding = head.partition(";")
        if coding != "base64":
            raise UnsupportedParameter(
                f"{place}: its data URL is not base64.",
                hint="It begins with data:image/png;base64, or the like.",
                param=place,
            )
    if media_type not in IMAGE_TYPES or not isinstance(data, str):
        raise UnsupportedParameter(
            f"{place}: this is no image of a type that is taken.",
            hint=f"These are: {', '.join(sorted(IMAGE_TYPES))}.",
            param=place,
        )
    return Picture(media_type, data)


def attached(pictures: Iterable[Picture]) -> tuple[Attachment, ...]:
    """Each once. Raises ``InvalidRequest``."""
    by_name = {one.name: one for one in pictures}
    given = [
        {"name": name, "media_type": one.media_type, "data": one.data}
        for name, one in by_name.items()
    ]
    try:
        return read_attachments(given)
    except OptionError as error:
        raise InvalidRequest(
            f"The images of the request: {error}.",
            hint="In a conversation with a name, only what is new goes to the agent.",
        ) from None


def _elsewhere(place: str) -> UnsupportedParameter:
    return UnsupportedParameter(
        f"{place}: an image that is somewhere else is not fetched.",
        hint="Send the image itself, in base64.",
        param=place,
    )
