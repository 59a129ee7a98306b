"""The broker's command line refuses what would make it misbehave later."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from broker.cli import command
from broker.core.settings import DomainGroup, SenderPool
from broker.core.settings import Settings as CoreSettings
from broker.journal.sqlite import SqliteJournal
from broker.mx import ResolverError
from broker.settings import Settings


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(command, words, catch_exceptions=False)
    return result.exit_code, " ".join(result.output.split())


OPTIONS = [
    "heartbeat",
    "lease",
    "retry-initial",
    "retry-max",
    "lifetime",
    "slow-start",
    "reserved",
    "dispatch-log",
]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """What a broker was started with; it ends at once."""
    seen: list[Settings] = []

    class Broker:
        def __init__(self, settings: Settings) -> None:
            seen.append(settings)

        def run(self) -> int:
            return 0

    monkeypatch.setattr("broker.service.Broker", Broker)
    return seen


@pytest.mark.parametrize("option", OPTIONS)
def test_seconds_are_a_number(option: str) -> None:
    code, output = run(f"--{option}", "nan")
    assert code == 2 and "'nan' is not a finite number" in output
    code, output = run(f"--{option}", "inf")
    assert code == 2 and f"--{option}" in output


@pytest.mark.parametrize("option", ["client-connections-max", "client-recipients-max", "memory-max"])
def test_counts_are_written_in_digits(option: str, started: list[Settings]) -> None:
    code, output = run(f"--{option}", "1_000")
    assert code == 2 and "'1_000' is not a number" in output and not started


def test_a_list_for_a_number_is_bad_input_and_no_bug(tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text("[broker]\nheartbeat = [1]\n")
    code, output = run("--config", str(file))
    assert code == 2
    assert f"{file}: 'heartbeat' takes a single value, not a list" in output


def test_without_options_the_defaults_hold(started: list[Settings]) -> None:
    assert run() == (0, "")
    assert started == [Settings()]


def test_the_options_reach_the_core(started: list[Settings]) -> None:
    words = "--policy least-time --slow-start 0 --reserved 5 --dispatch-log 0 --dns-resolver [::1]:5353"
    assert run(*words.split()) == (0, "")
    core = CoreSettings(policy="least-time", slow_start_s=0, reserved_share=0.05, dispatch_log_s=0)
    assert started == [Settings(dns_resolver="[::1]:5353", core=core)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--policy random", "'random' is not one of 'least-connections', 'least-time'"),
        ("--reserved 51", "51.0 is not in the range 0<=x<=50"),
        ("--slow-start -1", "is not in the range"),
        ("--dns-resolver dns.example", "'dns.example' is no IP address. Write it like 127.0.0.1:53"),
    ],
)
def test_a_wrong_option_is_refused(words: str, said: str) -> None:
    code, output = run(*words.split())
    assert code == 2 and said in output


def test_a_system_without_a_name_server_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broker(_: Settings) -> None:
        raise ResolverError("the system names no name server")

    monkeypatch.setattr("broker.service.Broker", broker)
    assert run() == (1, "Error: the system names no name server")


# --- the tables of --config -----------------------------------------------------------------------


def test_the_tables_of_the_file(started: list[Settings], tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text(
        """
        [broker]
        policy = "least-time"

        [[domain]]
        names = ["Gmail.com", "googlemail.com."]
        mx = [".Google.com", "googlemail.com"]
        connections = 20
        rate = "100/s"

        [[domain]]
        name = "umlauts"
        names = "M\u00dcLLER.example"
        rate = "1/s"

        [[sender]]
        domain = "News.Example.com"
        pool = "newsletter"

        [[broker.sender]]
        domain = "shop.example"
        pool = "shop"
        overflow = "spare"
        """,
        encoding="utf-8",
    )
    assert run("--config", str(file)) == (0, "")
    assert started[0].core == CoreSettings(
        policy="least-time",
        domains=(
            DomainGroup(
                "gmail.com",
                frozenset({"gmail.com", "googlemail.com"}),
                ("google.com", "googlemail.com"),
                20,
                "100/s",
            ),
            DomainGroup("umlauts", frozenset({"xn--mller-kva.example"}), (), 0, "1/s"),
        ),
        senders=(
            SenderPool("news.example.com", "newsletter"),
            SenderPool("shop.example", "shop", "spare"),
        ),
    )


HUGE = "= 0x" + "f" * 5_000
GOOD = '[[domain]]\nnames = ["a.example"]\nconnections = 1\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[domain]]\nrate = '1/s'", "[[domain]] 1: it has neither 'names' nor 'mx'. Add the domains"),
        (GOOD + GOOD.replace("a.", "A."), "[[domain]] 2: 'names': a.example is in [[domain]] 1 already"),
        (
            "[[domain]]\nmx=['x.example']\nrate='1/s'\n[[domain]]\nmx=['.X.example']\nrate='1/s'",
            "[[domain]] 2: 'mx': x.example is in [[domain]] 1 already",
        ),
        (
            "[[domain]]\nmx=['a.example']\nrate='1/s'\n[[broker.domain]]\nnames=['b']\nname='a.example'\nrate='1/s'",
            "[[domain]] 2: 'name': a.example is in [[domain]] 1 already",
        ),
        (GOOD + "rat = '1/s'", "[[domain]] 1: unknown key 'rat'. Did you mean 'rate'?"),
        (GOOD + "max = 1", "[[domain]] 1: unknown key 'max'. Did you mean 'mx'?"),
        (GOOD + "zzz = 1", "unknown key 'zzz'. Known keys: connections, mx, name, names, rate."),
        (GOOD + "rate = '1/x'", "[[domain]] 1: 'rate': the rate '1/x': no unit of time is called 'x'"),
        (GOOD + "rate = 5", "[[domain]] 1: 'rate' takes a text in quotes, not 5"),
        (GOOD.replace("connections = 1", ""), "[[domain]] 1: it limits nothing. Give it 'connections'"),
        (GOOD.replace("= 1", "= 0"), "[[domain]] 1: 'connections': 0 is no whole number from 1"),
        (GOOD.replace("= 1", "= true"), "'connections': True is no whole number"),
        (GOOD.replace("= 1", HUGE), "'connections': a number of thousands of digits is no whole number"),
        (GOOD + "rate " + HUGE, "'rate' takes a text in quotes, not a number of thousands of digits"),
        (GOOD.replace("= 1", "= 1.5"), "'connections': 1.5 is no whole number"),
        (GOOD.replace("a.example", "x@a.example"), "no domain. Leave out what is before the @"),
        (GOOD.replace("a.example", "a..example"), "'a..example' is no domain. Write it like example.com"),
        (GOOD.replace("a.example", ""), "'' is no domain"),
        (GOOD.replace("a.example", "\u2603\u200d.example"), "is no domain"),
        (GOOD.replace('["a.example"]', "[1]"), "'names' takes a list of domains, such as names = ["),
        (GOOD.replace('["a.example"]', "{a = 1}"), "'names' takes a list of domains"),
        (GOOD + "name = ' '", "'name': '' is no name"),
        ("[domain]\nnames = ['a']", "'domain' takes tables: write [[domain]] above each of them"),
        ("[[domian]]\nnames = ['a']", "unknown key 'domian'. Did you mean 'domain'?"),
        ("[[sender]]\npool = 'a'", "[[sender]] 1: 'domain' is missing"),
        ("[[sender]]\ndomain = 'a'", "[[sender]] 1: 'pool' is missing"),
        ("[[sender]]\ndomain = 'a'\npool = ''", "[[sender]] 1: 'pool': '' is no name"),
        ("[[sender]]\ndomain = 'a'\npool = 'x'\noverflow = 'x'", "'overflow': x is the pool itself"),
        (
            "[[sender]]\ndomain = 'a'\npool = 'x'\n[[sender]]\ndomain = 'A'\npool = 'y'",
            "[[sender]] 2: 'domain': a has a [[sender]] already",
        ),
        ("[[sender]]\ndomain = 'a'\npools = 'x'", "[[sender]] 1: unknown key 'pools'. Did you mean 'pool'?"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_refused_with_what_and_where(
    started: list[Settings], tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "broker.toml"
    file.write_text(text if "broker." not in text else "[broker]\n" + text, encoding="utf-8")
    code, output = run("--config", str(file))
    assert code == 2
    assert said in output.replace("\n", " ")
    assert str(file) in output
    assert not started


# --- the journal's file ---------------------------------------------------------------------------


def test_how_long_recipients_are_kept(started: list[Settings]) -> None:
    assert run("--retain-days", "0.5") == (0, "")
    assert started == [Settings(retain_days=0.5)]
    code, output = run("--retain-days", "-1")
    assert code == 2 and "--retain-days" in output


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    SqliteJournal(tmp_path / "journal.db").close()
    return tmp_path / "journal.db"


def test_a_journal_that_no_broker_has_is_copied_checked_and_restored(journal: Path, tmp_path: Path) -> None:
    file = str(tmp_path / "copy.db")
    code, output = run("--journal", str(journal), "backup", file)
    assert code == 0 and "0 campaigns, whole" in output
    assert run("backup", file, "--journal", str(journal))[0] == 1  # it is there
    assert run("backup", file, "--journal", str(journal), "--force", "--no-check")[0] == 0
    code, output = run("check", "--json", file)
    assert code == 0 and json.loads(output)["whole"] is True
    code, output = run("restore", file, "--journal", str(journal), "--json")
    assert code == 1 and "--force moves it aside" in json.loads(output)["error"]["message"]
    code, output = run("restore", file, "--journal", str(journal), "--force")
    assert code == 0 and "is restored, with 0 campaigns" in output
    code, output = run("compact", "--journal", str(journal))
    assert code == 0 and "bytes before" in output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("backup copy.db --journal none.db", "there is no journal {folder}/none.db"),
        ("backup none/copy.db --journal journal.db", "can't write {folder}/none/copy.db.part: No such file"),
        ("backup journal.db --journal journal.db", "is the journal itself"),
        ("backup copy.db --journal notes.txt", "can't open {folder}/notes.txt: file is not a database"),
        ("check none.db", "there is no file {folder}/none.db"),
        ("check notes.txt", "notes.txt is no journal"),
        ("restore notes.txt --journal new.db", "notes.txt is no journal"),
        ("compact --journal none.db", "there is no journal"),
    ],
)
def test_what_cannot_be_done_is_said(
    journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("these are my notes " * 500)
    code, output = run(*words.split())
    assert code == 1 and output.startswith("Error: ") and said.format(folder=tmp_path) in output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["journal.db", "notes.txt"]


def test_an_unknown_command_is_told(journal: Path) -> None:
    code, output = run("--journal", str(journal), "bakcup", "copy.db")
    assert code == 2 and "No such command 'bakcup'" in output
