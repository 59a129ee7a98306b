"""What DKIM costs: our signer and the whole path, against what OpenSSL itself can sign."""

import os
import re
import subprocess
import threading
import time
from pathlib import Path

import click

from evenpost.compose import compile_template
from evenpost.dkim import Signer, SigningKey
from evenpost.dkim.keys import Algorithm, new_pem
from scripts.benches.processes import Cluster, cluster, newsletter, smtp_sink
from scripts.benches.table import Bar, Result
from scripts.benches.throughput import send
from scripts.benches.usage import Cost, Spread

CONNECTIONS = 16
ALGORITHMS: dict[Algorithm, str] = {"rsa": "rsa2048", "ed25519": "ed25519"}
"""Ours, and openssl speed's word for it."""
SIGN_S = 1
"""Of each signer's turn."""
PATH_RATIO_MIN = 0.85
DOMAIN = "example.com"


def measure(messages: int, rounds: int, workers: int) -> Result:
    """Signatures of our signer against openssl speed, and messages with RSA-2048 against what is possible.

    Signer: composed 5 KB messages are hashed and signed, in as many threads as there are cores, in turn with
    as many `openssl speed`, which only sign. The whole path: Evenpost into smtp-sink with and without --dkim,
    in turn. Its bar is against what `openssl speed` would sign on the cores that are free: all cores, less
    what all but the signing threads used in that very round (broker, client, sink, the workers' loops, and
    strangers). The stricter figure lets those use only what they use a message without DKIM. --workers share
    the 16 connections; RSA wants one a core.
    """
    cores = len(os.sched_getaffinity(0))
    keys = {name: SigningKey(DOMAIN, name, new_pem(name)) for name in ALGORITHMS}
    signed: dict[Algorithm, list[float]] = {name: [] for name in ALGORITHMS}
    openssl: dict[Algorithm, list[float]] = {name: [] for name in ALGORITHMS}
    without, with_ = Cost("without DKIM"), Cost("with RSA-2048")
    signing_us: list[float] = []
    campaign = newsletter(messages)
    with (
        smtp_sink() as (port, sink),
        cluster([port] * workers, CONNECTIONS // workers) as plain,
        cluster(
            [port] * workers,
            CONNECTIONS // workers,
            prepare=_write_key,
            worker_options=("--tls", "none", "--dkim", "dkim.toml"),
        ) as signing,
    ):
        for made in (plain, signing):
            send(made, newsletter(2_000))  # warm up: imports, connections, pace
        for _ in range(rounds):
            for name, word in ALGORITHMS.items():
                openssl[name].append(_openssl_per_s(word, cores))
                signed[name].append(_signer_per_s(keys[name], cores))
            with without.round(messages, plain.pids | {"sink": sink.pid}):
                send(plain, campaign)
            before_s = _signing_s(signing)
            with with_.round(messages, signing.pids | {"sink": sink.pid}):
                send(signing, campaign)
            signing_us.append((_signing_s(signing) - before_s) / messages * 1e6)
    signer = {name: [a / b for a, b in zip(signed[name], openssl[name], strict=True)] for name in ALGORITHMS}
    rest_us = sum(without.us(process) for process in without.cpu_us)
    one_core = Spread.of(openssl["rsa"]).median / cores
    ratios: list[float] = []
    strict: list[float] = []
    for number, (per_s, stranger) in enumerate(zip(with_.per_s, with_.strangers, strict=True)):
        all_us = sum(values[number] for values in with_.cpu_us.values())
        for found, us in ((ratios, all_us - signing_us[number]), (strict, rest_us)):
            found.append(per_s / ((cores - stranger - per_s * us / 1e6) * one_core))
    rows: dict[str, list[float]] = {}
    for name, word in ALGORITHMS.items():
        rows[f"openssl speed {word}"], rows[f"our signer, {word}"] = openssl[name], signed[name]
    rows |= {"Evenpost without DKIM": without.per_s, "Evenpost with RSA-2048": with_.per_s}
    spreads = {name: Spread.of(values) for name, values in rows.items()}
    ratio, stricter = Spread.of(ratios), Spread.of(strict)
    return Result(
        "dkim",
        ["a second", "median", "least", "most"],
        [
            *([name, spread.median, spread.least, spread.most] for name, spread in spreads.items()),
            _row("RSA-2048 / openssl speed on the free cores", ratio),
            _row("the same, stricter", stricter),
        ],
        {
            "messages": messages,
            "rounds": rounds,
            "workers": workers,
            "cores": cores,
            "openssl_per_s": openssl,
            "signer_per_s": signed,
            "signer_ratio": {name: Spread.of(values).median for name, values in signer.items()},
            "plain_per_s": without.per_s,
            "rsa_per_s": with_.per_s,
            "rest_us": rest_us,
            "signing_us": signing_us,
            "ratio": ratio.median,
            "ratios": ratios,
            "strict_ratio": stricter.median,
        },
        [Bar("with RSA-2048 / openssl speed on the free cores", ratio.median, PATH_RATIO_MIN, True)],
        [
            f"Without DKIM a message takes {rest_us:.0f} us of CPU, all processes together. With it, the "
            f"threads that sign take {Spread.of(signing_us).median:.0f} us, of which openssl speed says "
            f"{1e6 / one_core:.0f} us.",
        ],
        [without, with_],
    )


def _row(name: str, spread: Spread) -> list[str]:
    return [name, *(f"{value:.2f}" for value in (spread.median, spread.least, spread.most))]


def _signing_s(made: Cluster) -> float:
    """CPU that its workers' signing threads have used so far."""
    ns = 0
    for worker in made.workers:
        for thread in Path(f"/proc/{worker.pid}/task").iterdir():
            if (thread / "comm").read_text().startswith("dkim-"):
                ns += int((thread / "schedstat").read_text().split()[0])
    return ns / 1e9


def _write_key(folder: Path) -> None:
    path = folder / "rsa.pem"
    path.touch(mode=0o600)
    path.write_bytes(new_pem("rsa"))
    (folder / "dkim.toml").write_text(
        f'[[key]]\ndomain = "{DOMAIN}"\nselector = "s1"\nprivate_key = "rsa.pem"\n'
    )


def _openssl_per_s(word: str, cores: int) -> float:
    """Signatures a second of CPU by openssl's own measurement, which runs on all cores at once."""
    command = ["openssl", "speed", "-seconds", str(SIGN_S), word]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(cores)
    ]
    # -multi does the same by the clock on the wall, which counts others on this machine.
    lines = [process.communicate()[0].splitlines()[-1] for process in running]
    found = [re.search(r"([0-9.]+) +[0-9.]+$", line) for line in lines]
    if None in found:
        raise click.ClickException(f"openssl speed says {lines}")
    return sum(float(match[1]) for match in found if match is not None)


def _signer_per_s(key: SigningKey, threads: int) -> float:
    """Messages a second of CPU that are hashed and signed, all cores together."""
    fields = ("first_name", "city", "token")
    composer = compile_template(newsletter(1).template(fields), campaign_id="x", created_at_ms=0)
    composed = [
        composer.compose(n, f"user{n}@example.net", [f"Anna{n}", "Hamburg", f"{n:08x}"], 0.0)
        for n in range(500)
    ]
    signer = Signer(lambda domain: (key,))
    end = time.monotonic() + SIGN_S
    counts = [0] * threads

    def sign(number: int) -> None:
        while time.monotonic() < end:
            signer.sign(composed[counts[number] % len(composed)], 0)
            counts[number] += 1

    running = [threading.Thread(target=sign, args=(number,)) for number in range(threads)]
    began = time.process_time()
    for each in running:
        each.start()
    for each in running:
        each.join()
    return sum(counts) / (time.process_time() - began) * threads
