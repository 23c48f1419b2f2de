"""From a request in another protocol to a run of the conversation that it belongs to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from hutch.api.auditing import about
from hutch.api.caller import Caller
from hutch.api.compat.conversation import Said, pictures_of, prompt_of
from hutch.api.compat.models import Choice
from hutch.api.compat.parameters import Foreign
from hutch.api.compat.pictures import attached
from hutch.app import Hutch
from hutch.errors import Forbidden, InvalidRequest, NotFound, UnsupportedParameter
from hutch.ids import derived_id, is_id
from hutch.runs.models import Run
from hutch.runs.service import NewRun
from hutch_runtime.protocol import Options

NAME_MAX: Final = 200  # characters of a caller's own name for a conversation
# Of a process that passes requests on, which gives one to each; see ``hutch.api.front``.
FRONT_KEY: Final = "front-"


@dataclass(frozen=True, slots=True)
class Asked:
    choice: Choice
    said: Sequence[Said]
    session: str | None  # an id of ours, or the caller's own name; None: a conversation of its own
    each_time: str = ""  # system text that holds for this turn only
    form: Options = field(default_factory=Options)


def session_of(given: dict[str, Any], *, caller: Caller, user: str | None) -> str | None:
    """The conversation that a request names, by the places in ``given``, or by OpenAI's ``user`` if
    it has the id of a session. Any other ``user`` is a client's word for its own user, and chooses
    nothing: neither a conversation, since all of that user's would be one, nor whom the request
    acts for, since a body is often passed on from somebody else. Raises ``InvalidRequest``,
    ``Forbidden``.
    """
    if user is not None and is_id(user, "user") and user != caller.user_id:
        raise Forbidden(
            "`user` is not the user that this request acts for.",
            hint="A service key says for whom it acts in the header X-Hutch-User.",
        )
    named = {place: value for place, value in given.items() if value is not None}
    if user is not None and is_id(user, "ses"):
        named["user"] = user
    for place, value in named.items():
        if not isinstance(value, str) or not 0 < len(value) <= NAME_MAX or not value.isprintable():
            raise InvalidRequest(
                f"{place} is not the name of a conversation.",
                hint=f"An id of a session, or 1 to {NAME_MAX} printable characters of your own.",
            )
    if len(set(named.values())) > 1:
        raise InvalidRequest(f"{' and '.join(named)} name different conversations.")
    return next(iter(named.values()), None)


async def submit(
    hutch: Hutch,
    caller: Caller,
    asked: Asked,
    *,
    body: Foreign,
    idempotency_key: str | None,
    timeout_s: float | None = None,
    only_after: Run | None = None,
) -> Run:
    """``only_after``: the run that has to be the last of its session. Raises what ``Runs.submit``
    does.
    """
    user_id, choice = caller.user_id, asked.choice
    session_id, begun = await _session(hutch, user_id, asked.session)
    sent = body.model_dump(mode="json", exclude={"stream", "stream_options"})
    new = NewRun(
        provider=choice.provider,
        model=choice.model,
        prompt=prompt_of(asked.said, begun=begun, each_time=asked.each_time),
        session_id=session_id,
        begins=session_id is not None and not begun,
        idempotency_key=idempotency_key,
        timeout_s=timeout_s,
        # A repeat comes when the conversation has begun, and would make another prompt.
        asked=json.dumps([sent, asked.session], sort_keys=True),
        options=asked.form,
        attachments=attached(pictures_of(asked.said, begun=begun)),
    )
    if only_after is not None and await hutch.runs.repeated(user_id, new) is None:
        await _check_last(hutch, only_after)
    run = await hutch.runs.submit(user_id, new)
    about(run_id=run.id, provider=run.provider)
    return run


async def _check_last(hutch: Hutch, run: Run) -> None:
    page = await hutch.runs.page(run.user_id, session_id=run.session_id, before=None, limit=1)
    if not page or page[0].id != run.id:
        raise UnsupportedParameter(
            "previous_response_id is not the last response of its conversation, which has gone on "
            "since: an agent cannot go back.",
            hint="Send the last one's id, or begin a new conversation.",
            param="previous_response_id",
        )


async def _session(hutch: Hutch, user_id: str, name: str | None) -> tuple[str | None, bool]:
    """Its id, and whether it is there."""
    if name is None:
        return None, False
    if is_id(name, "ses"):
        return (await hutch.sessions.get(user_id, name)).id, True
    session_id = derived_id("ses", f"{user_id} {name}")
    try:
        await hutch.sessions.get(user_id, session_id)
    except NotFound:
        return session_id, False
    return session_id, True


def outlives(idempotency_key: str | None) -> bool:
    """Whether a run goes on when its client goes away: then that may ask for it again."""
    return idempotency_key is not None and not idempotency_key.startswith(FRONT_KEY)
