from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter, Depends

from hutch.api.auditing import about
from hutch.api.caller import HutchDep, KeyDep, admin
from hutch.api.container import answer
from hutch.api.keys import made
from hutch.api.shapes import (
    ContainerPage,
    DeletionAnswer,
    DepartureAnswer,
    KeyAnswer,
    KeyRequest,
    LeaderAnswer,
    RotationAnswer,
    TaskAnswer,
    TaskPage,
    UserAnswer,
    UserPage,
    UserRequest,
    UserWithKey,
)

_DEPARTURE_S = 20.0

router = APIRouter(prefix="/v1/admin", tags=["admin"], dependencies=[Depends(admin)])


@router.post("/users", status_code=201)
async def create_user(asked: UserRequest, hutch: HutchDep, key: KeyDep) -> UserWithKey:
    user = await hutch.accounts.create_user(asked.name, asked.tier)
    new = await hutch.accounts.create_key("user", user.id, by=key)
    about(user_id=user.id, key_id=new.key.id)
    return UserWithKey(**UserAnswer.model_validate(user).model_dump(), key=new.text)


@router.get("/users")
async def list_users(hutch: HutchDep) -> UserPage:
    users = await hutch.accounts.list_users()
    return UserPage(users=[UserAnswer.model_validate(user) for user in users])


@router.post("/users/{user_id}/keys", status_code=201)
async def create_user_key(
    user_id: str, hutch: HutchDep, key: KeyDep, asked: KeyRequest | None = None
) -> KeyAnswer:
    """One more key for the user; the others stay valid."""
    user = await hutch.accounts.user(user_id)
    options = asked.model_dump() if asked else {}
    return made(await hutch.accounts.create_key("user", user.id, **options, by=key))


@router.post("/service-keys", status_code=201)
async def create_service_key(hutch: HutchDep, key: KeyDep) -> KeyAnswer:
    """A key that acts for any user, named in `X-Hutch-User`."""
    return made(await hutch.accounts.create_key("service", by=key))


@router.delete("/users/{user_id}")
async def delete_user(user_id: str, hutch: HutchDep) -> DeletionAnswer:
    """The user's data key first, then their container and every row of theirs; what went."""
    done = await hutch.deletion.delete(user_id)
    return DeletionAnswer(
        user_id=done.user.id,
        name=done.user.name,
        data_key=done.data_key,
        opens=done.opens,
        container=done.container,
        **asdict(done.traces),
    )


@router.post("/vault/rotate")
async def rotate_master_key(hutch: HutchDep) -> RotationAnswer:
    """Wrap every data key with a new master key; the service goes on meanwhile."""
    return RotationAnswer.model_validate(await hutch.data_keys.rotate())


@router.get("/containers")
async def list_containers(hutch: HutchDep) -> ContainerPage:
    """Every live one, of every user."""
    live = await hutch.sandboxes.all()
    return ContainerPage(containers=[await answer(hutch, sandbox) for sandbox in live])


@router.post("/containers/hibernate")
async def hibernate_all(hutch: HutchDep) -> DepartureAnswer:
    """Put every user's container away that is not in use, for as long as a client waits; `left`
    says how many were not tried yet: ask again.
    """
    return DepartureAnswer.model_validate(await hutch.idle.put_all_away(within_s=_DEPARTURE_S))


@router.get("/tasks")
async def list_tasks(hutch: HutchDep) -> TaskPage:
    """What each task of the control loop last reported."""
    return TaskPage(
        tasks=[TaskAnswer.model_validate(task) for task in hutch.driver.status()],
        leader=LeaderAnswer.model_validate(hutch.leader) if hutch.leader else None,
    )
