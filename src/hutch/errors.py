"""Everything that can go wrong, for a caller to read: a stable code, a message, a hint.

Only the text of a ``HutchError`` reaches a user. The HTTP status of each lives in
``hutch.api.errors`` alone; nothing else in Hutch knows HTTP.
"""

from __future__ import annotations

from typing import ClassVar


class HutchError(Exception):
    """Base of the tree. ``code`` never changes once released; ``message`` and ``hint`` may."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InvalidRequest(HutchError):
    code = "invalid_request"


class NotSupported(InvalidRequest):
    """The CLI, or this container's version of it, cannot do what was asked for."""

    code = "not_supported"


class PromptTooLarge(InvalidRequest):
    code = "prompt_too_large"


class UnsupportedParameter(InvalidRequest):
    """A request in another protocol asks for something that would change the answer, and that
    Hutch does not do. ``param`` is its place in the request, such as ``messages.0.content.1``.
    """

    code = "unsupported_parameter"

    def __init__(self, message: str, *, hint: str = "", param: str) -> None:
        super().__init__(message, hint=hint)
        self.param = param


class InvalidPath(InvalidRequest):
    """A path that is none, or that leads out of the workspace."""

    code = "invalid_path"


class IsDirectory(InvalidRequest):
    """What a file is needed for is a directory."""

    code = "is_a_directory"


class NoDirectory(InvalidRequest):
    """What a directory is needed for is none, or is reached by a link."""

    code = "not_a_directory"


class NoOrdinaryFile(InvalidRequest):
    """A link, a pipe or a socket, which are neither read nor written."""

    code = "not_a_file"


class InvalidRange(InvalidRequest):
    """The file has no such part."""

    code = "invalid_range"


class InvalidArchive(InvalidRequest):
    """A tar archive is broken, or holds what is not unpacked; nothing of it was."""

    code = "invalid_archive"


class FileTooLarge(InvalidRequest):
    """More bytes than a workspace may have."""

    code = "file_too_large"


class NoSpace(FileTooLarge):
    """There is no room left for it in the user's workspace."""

    code = "no_space"


class Unauthorized(HutchError):
    code = "unauthorized"


class KeyExpired(Unauthorized):
    code = "key_expired"


class TooManyFailures(HutchError):
    """Too many wrong keys came from this address; right ones are let in all the same."""

    code = "too_many_failures"

    def __init__(self, message: str, *, hint: str = "", retry_after_s: int) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class Forbidden(HutchError):
    code = "forbidden"


class ReadOnlyKey(Forbidden):
    """A read-only key was used for what could change something."""

    code = "read_only_key"


class FileClosed(Forbidden):
    """A file's own permissions close it to the agents' user, as whom it is opened."""

    code = "permission_denied"


class NotFound(HutchError):
    code = "not_found"


class NoSuchFile(NotFound):
    code = "file_not_found"


class ModelNotFound(NotFound):
    """No provider is known by this model's name."""

    code = "model_not_found"


class Conflict(HutchError):
    code = "conflict"


class FileExists(Conflict):
    """Something is there already, and was not to be replaced."""

    code = "file_exists"


class DirectoryNotEmpty(Conflict):
    code = "directory_not_empty"


class PreconditionFailed(Conflict):
    """The file is not, or no longer, what If-Match or If-None-Match says."""

    code = "precondition_failed"


class IdempotencyMismatch(Conflict):
    code = "idempotency_mismatch"


class SessionBusy(Conflict):
    code = "session_busy"


class ApprovalDecided(Conflict):
    """It has been decided otherwise, or its run has ended without a decision."""

    code = "approval_decided"


class DirectoryExists(Conflict):
    """There is something already where a repository was to go."""

    code = "directory_exists"


class RepositoryNotFound(NotFound):
    """There is no such repository or branch, or the token may not see it."""

    code = "repository_not_found"


class GitAuthFailed(HutchError):
    """The git host wants a token, or refuses the one that it was shown."""

    code = "git_auth_failed"


class HostNotAllowed(Forbidden):
    """The user's container may not reach this host."""

    code = "host_not_allowed"


class RepositoryTooLarge(HutchError):
    """It does not fit into the workspace; nothing of it is left there."""

    code = "repository_too_large"


class GitFailed(HutchError):
    """The git host does not answer, or git ended with an error of its own."""

    code = "git_failed"


class GitTimeout(GitFailed):
    """A clone took longer than it may."""

    code = "git_timeout"


class CredentialMissing(HutchError):
    code = "credential_missing"


class CredentialMalformed(InvalidRequest):
    code = "credential_malformed"


class CredentialNotAllowed(Forbidden):
    """A kind of credential that the operator has not switched on, or without the user's consent."""

    code = "credential_not_allowed"


class NeedsLogin(HutchError):
    """The stored login no longer works; its user has to sign in again."""

    code = "needs_login"


class CredentialRejected(HutchError):
    """The provider refused a credential when it was tried; it was not stored."""

    code = "credential_rejected"


class AgreementRequired(Forbidden):
    """The user has not accepted the operator's agreement in its present version."""

    code = "agreement_required"


class QueueFull(HutchError):
    """Too many runs wait already, of this user or of all; nothing was stored."""

    code = "queue_full"

    def __init__(self, message: str, *, hint: str = "", retry_after_s: int) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class TooManyUses(HutchError):
    """The user has as many transfers or terminals open as one may have."""

    code = "too_many_uses"


class Unavailable(HutchError):
    """A part that Hutch needs does not answer; trying again later is right."""

    code = "unavailable"


class StorageFull(Unavailable):
    """There is no room to store anything in."""

    code = "storage_full"


class DatabaseUnavailable(Unavailable):
    """The database does not answer, or broke off while it stored something."""

    code = "database_unavailable"


class NotLeading(DatabaseUnavailable):
    """This process led, and another one does now: nothing was stored."""


class KeyUnavailable(Unavailable):
    """The key provider does not answer, or lacks the master key that is asked for."""

    code = "key_unavailable"


class DoesNotOpen(HutchError):
    """A ciphertext was changed or moved, or its key was destroyed."""

    code = "does_not_open"


class BackendError(Unavailable):
    """The container engine failed, or is not there."""

    code = "backend_error"


class SandboxFailed(Unavailable):
    """A sandbox could not be made ready, or was lost."""

    code = "sandbox_failed"


class SandboxBusy(Conflict):
    """It is in use, and cannot be put away."""

    code = "sandbox_busy"


class SnapshotFailed(Unavailable):
    """What is in a sandbox could not be stored; the sandbox lives on."""

    code = "snapshot_failed"


class SnapshotStoreUnavailable(Unavailable):
    """The place where snapshots are kept cannot be read or written now."""

    code = "snapshot_store_unavailable"


class ExitUnavailable(Unavailable):
    """No exit is to be had for this user, or theirs does not work. Never circumvented."""

    code = "exit_unavailable"


class ImageMissing(BackendError):
    code = "image_missing"


class HostNotReady(HutchError):
    """The machine lacks something; ``hint`` holds the exact commands."""

    code = "host_not_ready"
