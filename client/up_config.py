"""cluster.toml: one broker and one worker for each `[[server]]`. Everything that is wrong is told at once."""

import difflib
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from client.input_toml import parse_toml
from client.problems import InputError, Problem, shown
from client.up_keys import ClusterKeys
from client.up_tables import TABLES, check_rate, check_table, tables_text
from evenpost.runtime.processes import process_name
from evenpost.runtime.secret import without_login
from evenpost.runtime.sockets import EndpointError, check_endpoint

CLIENTS = "tcp://127.0.0.1:5550"
WORKERS = "tcp://127.0.0.1:5551"
JOURNAL = "evenpost.db"

PASSWORD_VARIABLE = "EVENPOST_SMTP_PASSWORD"  # noqa: S105  # the variable's name
HELP_TIMEOUT_S = 20.0

_SERVER_KEYS = {
    "smtp": str, "name": str, "max_connections": int, "weight": int, "processes": int, "pools": list,
    "password_file": str, "password_env": str,
}  # fmt: skip
_BROKER_KEYS = {"clients": str, "workers": str, "journal": str}
_KEY_FILES = {"broker": {"curve_key": str, "keys": str}, "worker": {"curve_key": str, "broker_key": str}}
"""Options of the programs too; checked here, so that `--check` says what is wrong with them."""
_TOP = ("broker", "server", *TABLES)
_TYPE_WORDS = {str: "a text", int: "a whole number", list: "a list of texts"}
_OWN = frozenset({"config", "help", "version", "broker", "pool", "smtp-password-file"})
"""Options of the programs that the file has another word for, or no use for."""
_RANGES = {"max_connections": (1, 10_000), "weight": (1, 1_000), "processes": (1, 100)}


@dataclass(frozen=True, slots=True)
class Program:
    """A process to be run. Nothing secret is in `arguments`: everybody on the machine can read those."""

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    """On top of this process's own."""
    without: frozenset[str] = frozenset()
    """What it doesn't inherit."""
    workers: tuple[str, ...] = ()
    """What the broker calls it, where that isn't `name`: a worker of several processes."""
    config: str = ""
    """What a file for its --config has to say: what no option can."""


@dataclass(frozen=True, slots=True)
class Cluster:
    broker: Program
    workers: tuple[Program, ...]
    folder: Path
    """Where the processes run: relative paths in the file count from it."""
    endpoint: str
    """Where clients on this machine find the broker."""
    broker_key: str = ""
    """The broker's public key, in Z85; empty where it has none."""


def load(path: Path, environment: Mapping[str, str]) -> Cluster:
    """Reads and checks the file. Raises InputError with all that is wrong."""
    return _Reader(path, environment).cluster()


class _Reader:
    def __init__(self, path: Path, environment: Mapping[str, str]) -> None:
        self._path = path
        self._environment = environment
        self._problems: list[Problem] = []
        self._folder = path.parent.resolve()
        self._keys = ClusterKeys(self._folder, environment, self._add)

    def cluster(self) -> Cluster:
        table = parse_toml(self._path, "bad_cluster")
        for key in table:
            if key not in _TOP:
                known = "Known are [broker], [[server]], [[domain]], [[sender]]"
                self._add(key, "unknown key", _meant(key, _TOP) or known)
        broker_table = table.get("broker", {})
        if not isinstance(broker_table, dict):
            self._add("broker", "expected a table", "Write [broker] and its keys below it")
            broker_table = {}
        servers = self._tables(table, "server")
        if not servers and table.get("server", []) == []:
            self._add("server", "there is none", 'Write [[server]] and below it smtp = "smtp://HOST:25"')
        config = tables_text({name: self._checked(name, self._tables(table, name)) for name in TABLES})
        broker, endpoint, workers_endpoint = self._broker(broker_table, config)
        names: dict[str, int] = {}
        workers = [self._worker(n, s, workers_endpoint, names) for n, s in enumerate(servers, 1)]
        if self._problems:
            raise InputError(self._problems)
        return Cluster(broker, tuple(workers), self._folder, endpoint, self._keys.public)

    def _add(self, key: str, reason: str, hint: str = "") -> None:
        self._problems.append(Problem("bad_cluster", reason, hint, str(self._path), field=key))

    def _tables(self, table: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
        """The `[[name]]` tables, if they are such."""
        found = table.get(name, [])
        if isinstance(found, dict):
            self._add(name, "expected a list of tables", f"Write [[{name}]], with two brackets")
            return []
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            self._add(name, "expected tables", f"Write [[{name}]] and its keys below it, for each {name}")
            return []
        return found

    def _checked(self, name: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What the broker is told: the values of known keys."""
        kinds = TABLES[name]
        found = []
        for number, row in enumerate(rows, 1):
            place = f"{name}[{number}]."
            for key in row:
                if key not in kinds:
                    hint = _meant(key, list(kinds)) or f"Known are {', '.join(kinds)}"
                    self._add(place + key, "unknown key", hint)
            values = self._values(row, kinds, place)
            check_table(name, row, values, place, self._add)
            found.append(values)
        return found

    def _broker(self, table: dict[str, Any], config: str) -> tuple[Program, str, str]:
        values = self._values(table, _BROKER_KEYS, "broker.")
        clients = self._endpoint("broker.clients", values.get("clients", CLIENTS))
        workers = self._endpoint("broker.workers", values.get("workers", WORKERS))
        if clients == workers:
            self._add("broker.workers", "the same as clients", "Give each its own port")
        journal = self._folder / values.get("journal", JOURNAL)
        if not journal.parent.is_dir():
            self._add("broker.journal", f"there is no folder {str(journal.parent)!r}", "Make it first")
        arguments = ["broker", "--clients", clients, "--workers", workers, "--journal", str(journal)]
        self._values(table, _KEY_FILES["broker"], "broker.")
        self._keys.read_broker(table)
        arguments += self._others("broker", table, _BROKER_KEYS, "broker.")
        return Program("broker", tuple(arguments), config=config), _reachable(clients), _reachable(workers)

    def _worker(self, number: int, table: dict[str, Any], broker: str, names: dict[str, int]) -> Program:
        place = f"server[{number}]."
        for key in table:
            if re.search("password|secret", key) and key not in _SERVER_KEYS:
                hint = 'Put it into a file of its own and write password_file = "FILE", or use password_env'
                self._add(place + key, "a password has no place here", hint)
        clean = {k: v for k, v in table.items() if k in _SERVER_KEYS or not re.search("password|secret", k)}
        values = self._values(clean, _SERVER_KEYS, place)
        for key, (least, most) in _RANGES.items():
            if key in values and not least <= values[key] <= most:
                self._add(place + key, f"{values[key]} is not between {least} and {most:,}")
        check_rate(table, place, self._add)
        smtp = values.get("smtp", "")
        if not smtp and "smtp" not in table:
            self._add(place + "smtp", "missing", 'Such as smtp = "smtp://user@relay.example:587"')
        host = self._check_smtp(place + "smtp", smtp) if smtp else ""
        name = values.get("name") or host or f"server-{number}"
        if name in names:
            hint = f'Give each server its own: name = "{name}-{number}"'
            self._add(place + "name", f"{name!r} is server[{names[name]}]'s name already", hint)
        names.setdefault(name, number)
        arguments = ["worker", "--broker", broker, "--smtp", smtp, "--name", name]
        for key in ("max_connections", "weight", "processes"):
            if key in values:
                arguments += [f"--{key.replace('_', '-')}", str(values[key])]
        for pool in values.get("pools", []):
            arguments += ["--pool", pool]
        environment: dict[str, str] = {}
        without = {"EVENPOST_CONFIG", "EVENPOST_OUTCOME_LOG", "EVENPOST_PROCESSES"}
        if "password_file" in values:
            secret = self._folder / values["password_file"]
            if not secret.is_file():
                self._add(place + "password_file", f"there is no file {str(secret)!r}")
            arguments += ["--smtp-password-file", str(secret)]
            without.add(PASSWORD_VARIABLE)
            if "password_env" in values:
                self._add(place + "password_env", "password_file is given too", "One of the two, please")
        elif "password_env" in values:
            variable = values["password_env"]
            if variable not in self._environment:
                self._add(place + "password_env", f"the variable {variable!r} is not set")
            environment[PASSWORD_VARIABLE] = self._environment.get(variable, "")
        self._values(clean, _KEY_FILES["worker"], place)
        dkim = clean.get("dkim")
        if isinstance(dkim, str) and not (self._folder / dkim).is_file():
            self._add(place + "dkim", f"there is no file {str(self._folder / dkim)!r}")
        environment |= self._keys.environment_of_worker(clean, place)
        arguments += self._others("worker", clean, _SERVER_KEYS, place)
        processes = values.get("processes", 1)
        workers = () if processes == 1 else tuple(process_name(name, n + 1) for n in range(processes))
        return Program(name, tuple(arguments), environment, frozenset(without), workers)

    def _values(self, table: Mapping[str, Any], kinds: Mapping[str, type], place: str) -> dict[str, Any]:
        """The values of known keys, if they are of the right type."""
        found = {}
        for key, kind in kinds.items():
            if key not in table:
                continue
            value = table[key]
            good = isinstance(value, kind) and not isinstance(value, bool)
            if kind is list and good:
                good = all(isinstance(item, str) and item for item in value)
            if good:
                found[key] = value
            else:
                self._add(place + key, f"expected {_TYPE_WORDS[kind]}, got {shown(value)}")
        return found

    def _endpoint(self, key: str, endpoint: str) -> str:
        if re.fullmatch(r"tcp://\*:[0-9]+", endpoint):
            return endpoint
        try:
            return check_endpoint(endpoint)
        except EndpointError as error:
            self._add(key, str(error))
            return endpoint

    def _check_smtp(self, key: str, url: str) -> str:
        example = "Such as smtp://user@relay.example:587 or smtps://relay.example"
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            # What stands where the port should be may be a password: it isn't shown.
            self._add(key, "it is no URL", example)
            return ""
        if parts.password is not None:
            hint = 'Put it into a file of its own and write password_file = "FILE", or use password_env'
            self._add(key, "a password has no place in the URL", hint)
            return host or ""
        if parts.scheme not in ("smtp", "smtps") or not host:
            self._add(key, f"{shown(without_login(url))} is no server", example)
            return ""
        return host if port is None or port in (25, 465, 587) else f"{host}-{port}"

    def _others(
        self, program: str, table: Mapping[str, Any], known: Mapping[str, type], place: str
    ) -> list[str]:
        """Keys that are options of the program itself, which is asked for its list."""
        others = {key: value for key, value in table.items() if key not in known}
        if not others:
            return []
        options = _options_of(program, self._environment) - _OWN
        names = [*known, *sorted(o.replace("-", "_") for o in options if not o.startswith("no-"))]
        arguments = []
        for key, value in others.items():
            option = key.replace("_", "-")
            if option not in options or "-" in key:
                hint = _meant(key, names) or f"Known are {', '.join(names)}"
                self._add(place + key, "unknown key", hint)
            elif isinstance(value, bool):
                if value or f"no-{option}" in options:
                    arguments.append(f"--{option}" if value else f"--no-{option}")
            elif isinstance(value, dict):
                self._add(place + key, "expected a single value")
            else:
                for item in value if isinstance(value, list) else [value]:
                    arguments += [f"--{option}", str(item)]
        return arguments


def command_of(program: Program) -> list[str]:
    """How it is started: by this Python, with nothing imported from the folder that it runs in."""
    return [sys.executable, "-P", "-m", *program.arguments]


def environment_of(program: Program, base: Mapping[str, str]) -> dict[str, str]:
    kept = {k: v for k, v in base.items() if k not in program.without}
    packages = str(Path(__file__).resolve().parent.parent)
    paths = [packages, *filter(None, [base.get("PYTHONPATH")])]
    return {**kept, **program.environment, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def _options_of(program: str, environment: Mapping[str, str]) -> frozenset[str]:
    probe = Program(program, (program, "--help"))
    run = subprocess.run(  # noqa: S603  # our own program
        command_of(probe), env=environment_of(probe, environment), capture_output=True, text=True,
        timeout=HELP_TIMEOUT_S, check=False,
    )  # fmt: skip
    lines = re.findall(r"^\s+(?:-\w, )?(--[a-z].*)", run.stdout, re.MULTILINE)
    heads = [re.split(r"\s{2,}", line)[0] for line in lines]
    return frozenset(option for head in heads for option in re.findall(r"--([a-z][a-z-]*)", head))


def _meant(key: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(key.lower().replace("-", "_"), known, 1)
    return f"Did you mean {close[0]!r}?" if close else ""


def _reachable(endpoint: str) -> str:
    """An endpoint that is listened on, as something on this machine connects to it."""
    return re.sub(r"//(\*|0\.0\.0\.0|\[::\]):", "//127.0.0.1:", endpoint)
