"""Key files: NAME.key holds a pair, for its owner's eyes; NAME.pub the public half and whose it is.

Both are small TOML files:

    role = "worker"                          NAME.pub of a worker may add:
    name = "relay-1"                         workers = ["relay-1", "relay-1b"]
    public = "40 characters of Z85"
    secret = "40 characters of Z85"          in NAME.key only
"""

import os
import secrets
import stat
import tomllib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from evenpost.runtime.curve import (
    CurvePeer,
    KeyFileError,
    PublicKey,
    Role,
    SecretKey,
    check_name,
    is_key,
    public_of,
)
from evenpost.runtime.secret import Secret, shown_to_others
from evenpost.wire import limits

FILE_BYTES_MAX = 64 * 1024
"""A key file has four lines; a long list of worker names has room too."""
_SECRET_MODE = 0o600
_PUBLIC_MODE = 0o644


def write_new(key: SecretKey, folder: Path, workers: Iterable[str] = ()) -> tuple[Path, Path]:
    """Writes NAME.key (mode 0600) and NAME.pub; gives both paths. Either is there in full or not at all.

    Raises KeyFileError, also where one of them is there already: a key is never overwritten."""
    secret_path, public_path = folder / f"{key.name}.key", folder / f"{key.name}.pub"
    for path in (secret_path, public_path):
        if path.exists() or path.is_symlink():
            raise _exists(path)
    whose = f'role = "{key.role}"\nname = "{key.name}"\npublic = "{key.public}"\n'
    names = list(workers)
    listed = f"workers = [{', '.join(map(_quoted, names))}]\n" if names else ""
    _write(
        secret_path,
        f"# The SECRET key of {key.role} {key.name}: keep it on the host that uses it.\n{whose}"
        f'secret = "{key.secret.reveal()}"\n',
        _SECRET_MODE,
    )
    try:
        _write(public_path, f"# The public key of {key.role} {key.name}.\n{whose}{listed}", _PUBLIC_MODE)
    except KeyFileError:
        secret_path.unlink()
        raise
    return secret_path, public_path


def read_secret_key(path: Path, roles: Collection[Role] = frozenset(Role)) -> SecretKey:
    """The pair in a .key file. Raises KeyFileError, also where others can read the file or it is another
    role's."""
    content, mode = _read(path)
    if "secret" not in content:
        raise KeyFileError(f"{path} holds no secret key: give the .key file, not the .pub file")
    if reason := shown_to_others(path, mode):
        raise KeyFileError(reason)
    whose = _public(path, content)
    text = content["secret"]
    if not isinstance(text, str) or not is_key(text):
        raise KeyFileError(f"{path}: 'secret' isn't a key of 40 characters in Z85")
    secret = Secret(text)
    if public_of(secret) != whose.key:
        raise KeyFileError(f"{path}: 'public' doesn't belong to 'secret': the file was changed by hand")
    if whose.role not in roles:
        wanted = " or ".join(sorted(roles))
        raise KeyFileError(f"{path} is a key of role {whose.role}: here goes one of role {wanted}")
    return SecretKey(whose.role, whose.name, whose.key, secret)


def read_public_key(path: Path) -> PublicKey:
    """What a .pub file says. Raises KeyFileError."""
    content, mode = _read(path)
    if "secret" in content:
        raise KeyFileError(f"{path} holds a secret key: here goes the .pub file; keep the .key file home")
    if mode & stat.S_IWOTH:
        raise KeyFileError(f"{path} can be written by anybody on this host: chmod o-w {path}")
    return _public(path, content)


def read_broker_key(text: str) -> str:
    """The broker's public key, in Z85: from the key itself or from the path of its .pub file. Raises
    KeyFileError."""
    if is_key(text) and not Path(text).exists():
        return text
    found = read_public_key(Path(text))
    if found.role is not Role.BROKER:
        raise KeyFileError(f"{text} is a key of role {found.role}: here goes the broker's .pub file")
    return found.key


def read_peer(own: Path | None, broker_key: str | None, roles: Collection[Role]) -> CurvePeer | None:
    """What a client or worker was given, read; None where it was given neither. Raises KeyFileError."""
    if own is None and broker_key is None:
        return None
    if own is None:
        raise KeyFileError("a broker's key without one of ours: give our .key file too (--curve-key)")
    if broker_key is None:
        raise KeyFileError("a key of ours without the broker's: give the broker's .pub too (--broker-key)")
    return CurvePeer(read_secret_key(own, roles), read_broker_key(broker_key))


def _public(path: Path, content: dict[str, Any]) -> PublicKey:
    for key in content:
        if key not in ("role", "name", "public", "secret", "workers"):
            raise KeyFileError(f"{path}: unknown key {key!r}")
    role, name, public = (content.get(key) for key in ("role", "name", "public"))
    if not isinstance(role, str) or role not in set(Role):
        raise KeyFileError(f"{path}: 'role' is one of {', '.join(Role)}")
    if not isinstance(name, str):
        raise KeyFileError(f"{path}: 'name' is missing, or isn't text")
    try:
        check_name(name)
    except KeyFileError as error:
        raise KeyFileError(f"{path}: {error}") from None
    if not isinstance(public, str) or not is_key(public):
        raise KeyFileError(f"{path}: 'public' isn't a key of 40 characters in Z85")
    workers = content.get("workers", [name] if role == Role.WORKER else [])
    if not isinstance(workers, list) or not all(isinstance(w, str) and limits.is_name(w) for w in workers):
        raise KeyFileError(f"{path}: 'workers' is a list of worker names")
    if workers and role != Role.WORKER:
        raise KeyFileError(f"{path}: only a worker's key has 'workers'")
    return PublicKey(Role(role), name, public, tuple(workers))


def _read(path: Path) -> tuple[dict[str, Any], int]:
    """Content and mode of a key file."""
    try:
        # A pipe of that name must not hold the process up.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise KeyFileError(f"{path} is no file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                raw = file.read(FILE_BYTES_MAX + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise KeyFileError(f"can't read the key in {path}: {error.strerror}") from None
    except ValueError as error:  # a NUL in the path
        if isinstance(error, KeyFileError):
            raise
        raise KeyFileError(f"{str(path)!r} can't be a file's name") from None
    if len(raw) > FILE_BYTES_MAX:
        raise KeyFileError(f"{path} is no key file: it is larger than {FILE_BYTES_MAX // 1024} KB")
    try:
        return tomllib.loads(raw.decode()), mode
    except (ValueError, RecursionError):  # no TOML, no UTF-8, or a number of 5,000 digits
        # What the parser says may quote the file, and with it a secret.
        raise KeyFileError(f"{path} is no key file: make one with `evenpost keys new`") from None


def _write(path: Path, text: str, mode: int) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                os.fchmod(file.fileno(), mode)  # the umask may take too much of a public key's
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)  # unlike a rename, it never replaces a file
        finally:
            draft.unlink()
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise KeyFileError(f"can't write {path}: {error.strerror}") from None


def _exists(path: Path) -> KeyFileError:
    return KeyFileError(f"{path} is there already and isn't overwritten: choose another name or --dir")


def _quoted(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
