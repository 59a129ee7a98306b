"""`evenpost`: the command line of those who send."""

import click
from click.shell_completion import get_completion_class

from client.cli_dkim import dkim_key
from client.cli_explain import explain
from client.cli_keys import keys
from client.cli_look import report, servers, status, trace, watch
from client.cli_steer import cancel, drain, maint, maxconn, pause, ready, resume, retry_failed, weight
from client.cli_submit import send, submit
from client.cli_up import up
from evenpost.runtime import settings

SECTIONS = {
    "Send": ("submit", "send"),
    "Look": ("status", "watch", "report", "trace", "explain", "servers"),
    "Steer": ("pause", "resume", "cancel", "retry-failed"),
    "Servers": ("drain", "maint", "ready", "weight", "maxconn"),
    "Run": ("up", "keys", "dkim-key", "completion"),
}


class _Sections(click.Group):
    """Lists the commands by what they are for."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in SECTIONS.items():
            with formatter.section(title):
                rows = [(name, self.commands[name].get_short_help_str(80)) for name in names]
                formatter.write_dl(rows)


@click.command(
    cls=_Sections, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@settings.version_option()
def cli() -> None:
    """Sends email campaigns through many SMTP servers at once; each message goes to the least busy one.

    Needs a running broker with workers: `evenpost up cluster.toml` runs all of it on this machine, or see
    `evenpost-broker --help` and `evenpost-worker --help`. The broker is found by --broker or EVENPOST_BROKER.

    \b
    A first campaign:
      evenpost submit campaign.toml --dry-run      checks everything, sends nothing
      evenpost submit campaign.toml --wait         sends it and waits for the end
      evenpost status                              lists the campaigns
      evenpost report CAMPAIGN --only failed       says what wasn't sent, and why
      evenpost explain CAMPAIGN                    says why it waits, or where it goes

    \b
    Exit status: 0 done (or all sent), 1 finished with failures, 2 bad input, 3 no broker, 130 Ctrl-C.
    """


@click.command(short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Prints what makes SHELL complete commands and options.

    \b
    bash:  eval "$(evenpost completion bash)"                in ~/.bashrc
    zsh:   eval "$(evenpost completion zsh)"                 in ~/.zshrc
    fish:  evenpost completion fish > ~/.config/fish/completions/evenpost.fish
    """
    found = get_completion_class(shell)
    assert found is not None  # click brings these three
    click.echo(found(cli, {}, "evenpost", "_EVENPOST_COMPLETE").source())


for each in (submit, send, status, watch, report, trace, explain, servers, pause, resume, cancel,
             retry_failed, drain, maint, ready, weight, maxconn, up, keys, dkim_key, completion):  # fmt: skip
    cli.add_command(each)


def main() -> None:
    """The console script."""
    settings.run(cli, "evenpost")
