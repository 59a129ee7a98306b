"""evenpost-broker backup, check, restore, compact: what is done with a journal's file."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

EXIT_DAMAGED = 1

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
_journal = click.option(
    "--journal",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The journal. Not given: that of the broker's settings (--config, EVENPOST_JOURNAL).",
)
_force = click.option("--force", is_flag=True, help="Replace what is there.")


class Failed(click.ClickException):
    """Something that can't be done: a sentence, or a JSON document."""

    exit_code = 1

    def __init__(self, message: str, *, as_json: bool) -> None:
        super().__init__(message)
        self.as_json = as_json

    def show(self, file: Any = None) -> None:
        if self.as_json:
            _print_json({"error": {"message": self.message}})
        else:
            super().show(file)


@contextmanager
def _failing(as_json: bool) -> Iterator[None]:
    """What is wrong with a journal becomes what the command says."""
    from broker.journal.store import JournalError

    try:
        yield
    except JournalError as error:
        raise Failed(str(error), as_json=as_json) from None


def _print_json(value: Any) -> None:
    click.echo(msgspec.json.encode(value))


def _named(context: click.Context, journal: Path | None) -> Path:
    """The journal: the command's own option, else the broker's setting."""
    if journal is not None:
        return journal
    assert context.parent is not None
    found: Path = context.parent.params["journal"]
    return found


@click.command(short_help="Copy the journal while the broker runs.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_journal
@_force
@click.option(
    "--check/--no-check", default=True, show_default=True, help="Read the copy through when it is done."
)
@_json
@click.pass_context
def backup(
    context: click.Context, file: Path, journal: Path | None, force: bool, check: bool, as_json: bool
) -> None:
    """Copies the journal to FILE, on the broker's host, while the broker runs and sends, or while it doesn't.

    The copy is the journal as of the copy's end. The running broker writes it, so FILE has to be where the
    broker may write. It is written as FILE.part, flushed, and then renamed.

    \b
    Examples:
      evenpost-broker backup /var/lib/evenpost/backup-$(date +%F).db
      evenpost-broker --config /etc/evenpost/broker.toml backup --json /backup/evenpost.db
    """

    source, target = _named(context, journal).absolute(), file.absolute()
    with _failing(as_json):
        steps = _copy(source, target, force)
        size, pages = _show_progress(steps, quiet=as_json)
        found = _check_copy(target) if check else None
    if as_json:
        _print_json(
            {"file": str(target), "bytes": size, "pages": pages, "checked": check, "campaigns": found}
        )
    else:
        checked = f", {found:,} campaigns, whole" if found is not None else ", not checked"
        click.echo(f"{target}: a copy of {source}, {size:,} bytes{checked}.")


def _check_copy(file: Path) -> int:
    from broker.journal.checking import check
    from broker.journal.store import JournalError

    result = check(file)
    if result.problems:
        raise JournalError(f"{file} is damaged, and so may be the journal: {'; '.join(result.problems)}")
    return len(result.campaigns)


def _copy(journal: Path, file: Path, force: bool) -> "Iterator[Any]":
    """Progress of a copy that the broker makes, or, where none runs, we."""
    from broker.control import Progress, Question, ask, control_file
    from broker.journal.copying import Copy, open_alone
    from broker.journal.store import JournalError

    if file == journal:
        raise JournalError(f"{file} is the journal itself: name another file")
    if not journal.is_file():
        raise JournalError(f"there is no journal {journal}: name it with --journal")
    try:
        for progress in ask(journal, Question(str(file), force)):
            if progress.error:
                raise JournalError(progress.error)
            yield progress
        return
    except PermissionError:
        text = (
            f"the broker's socket {control_file(journal)} is its owner's: run this as that user, or as root"
        )
        raise JournalError(text) from None
    except EOFError:
        raise JournalError("the broker ended before the copy was whole: nothing is left of it") from None
    except (FileNotFoundError, ConnectionRefusedError):
        pass  # no broker runs
    try:
        db = open_alone(journal)
    except JournalError as error:
        raise JournalError(f"{error}, and nobody answers at {control_file(journal)}") from None
    copy = None
    try:
        copy = Copy(db, file, force=force)
        while not copy.step(0.2):
            yield Progress(pages=copy.pages, copied=copy.copied)
        pages = copy.pages
        yield Progress(pages=pages, copied=pages)
        yield Progress(pages=pages, copied=pages, done=True, bytes=copy.finish())
    except BaseException:
        if copy is not None:
            copy.drop()
        raise
    finally:
        db.close()


def _show_progress(steps: "Iterable[Any]", *, quiet: bool) -> tuple[int, int]:
    """Bytes and pages in the end."""
    size = pages = 0
    shown = not quiet and sys.stderr.isatty()
    for progress in steps:
        pages = progress.pages or pages
        size = progress.bytes or size
        if shown and progress.pages:
            percent = 100 * progress.copied / progress.pages
            click.echo(f"\r{percent:5.1f} % of {progress.pages * 4096 / 1e6:,.0f} MB", nl=False, err=True)
    if shown:
        click.echo("\r" + " " * 40 + "\r", nl=False, err=True)
    return size, pages


@click.command(short_help="Say whether a journal's file is whole, and what is in it.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_json
def check(file: Path, as_json: bool) -> None:
    """Reads FILE, a backup or the journal of a broker that doesn't run, from end to end; lists its campaigns.

    The exit status is 1 if it is damaged.
    """
    from broker.journal.checking import check as check_file

    with _failing(as_json):
        found = check_file(file.absolute())
    if as_json:
        campaigns = [campaign._asdict() for campaign in found.campaigns]
        facts = {"whole": not found.problems, "problems": found.problems, "version": found.version}
        _print_json({"file": str(file), **facts, "campaigns": campaigns})
    else:
        for campaign in found.campaigns:
            counts = ", ".join(f"{count:,} {state}" for state, count in campaign.counts.items()) or "nothing"
            rows = "compacted" if campaign.compacted_at else f"{campaign.rows:,} rows"
            name = f" {campaign.name!r}" if campaign.name else ""
            click.echo(f"{campaign.campaign}{name} {campaign.state}: {counts}, of {campaign.total:,}; {rows}")
        for problem in found.problems:
            click.echo(f"Damaged: {problem}", err=True)
        if not found.problems:
            click.echo(f"{file} is whole: {len(found.campaigns):,} campaigns, format {found.version}.")
    if found.problems:
        raise click.exceptions.Exit(EXIT_DAMAGED)


@click.command(short_help="Put a backup in the journal's place.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_journal
@click.option("--force", is_flag=True, help="Move a journal that is there aside.")
@_json
@click.pass_context
def restore(context: click.Context, file: Path, journal: Path | None, force: bool, as_json: bool) -> None:
    """Makes a journal of FILE, a backup, while no broker runs on it. FILE itself stays as it is.

    What was sent after the backup isn't known to it. So each campaign that had not ended is paused, and you
    decide: `evenpost resume` sends what the backup doesn't know as sent, `evenpost cancel` leaves it. What
    workers still have to tell counts, as soon as they are connected: look at `evenpost status` first.
    """
    from broker.journal.replacing import restore as restore_file

    target = _named(context, journal).absolute()
    with _failing(as_json):
        found = restore_file(file.absolute(), target, force=force)
    moved = str(found.moved) if found.moved else None
    if as_json:
        held = [each._asdict() for each in found.held]
        _print_json({"journal": str(target), "campaigns": found.campaigns, "paused": held, "moved": moved})
        return
    if moved:
        click.echo(f"The journal that was there is now {moved}.")
    for each in found.held:
        name = f" {each.name!r}" if each.name else ""
        how = "will be paused when the rest of its recipients has come" if each.open else "is paused"
        click.echo(f"Campaign {each.campaign}{name} {how}.")
    click.echo(f"{target} is restored, with {found.campaigns:,} campaigns. Start the broker.")
    if found.held:
        click.echo("What was sent after the backup would be sent again: resume only what you mean to.")


@click.command(short_help="Rewrite the journal without its free space, while no broker runs.")
@_journal
@_json
@click.pass_context
def compact(context: click.Context, journal: Path | None, as_json: bool) -> None:
    """Rewrites the journal without the space that is free in it, while no broker runs on it.

    A journal that was made by this release or a newer one shrinks by itself; an older one only by this, once,
    and by itself from then on. The disk needs as much free space as the rewritten journal takes.
    """
    from broker.journal.replacing import rewrite

    target = _named(context, journal).absolute()
    with _failing(as_json):
        before, after = rewrite(target)
    if as_json:
        _print_json({"journal": str(target), "bytes_before": before, "bytes": after})
    else:
        click.echo(f"{target}: {before:,} bytes before, {after:,} now.")


COMMANDS = (backup, check, restore, compact)
