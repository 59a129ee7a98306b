"""Writes recipients.csv: 5,000 people who don't exist, the same ones each time.

python examples/newsletter/make_recipients.py > examples/newsletter/recipients.csv
"""

import csv
import hashlib
import random
import sys

FIRST = [
    ("Anna", "anna"), ("Jonas", "jonas"), ("Zoë", "zoe"), ("Jürgen", "juergen"), ("Søren", "soren"),
    ("Åsa", "asa"), ("José", "jose"), ("Inês", "ines"), ("François", "francois"), ("Łukasz", "lukasz"),
    ("Žofie", "zofie"), ("Ştefan", "stefan"), ("İpek", "ipek"), ("Nguyệt", "nguyet"), ("Þóra", "thora"),
    ("Ольга", "olga"), ("Дмитро", "dmytro"), ("Ελένη", "eleni"), ("Γιώργος", "giorgos"), ("ნინო", "nino"),
    ("Արամ", "aram"), ("ليلى", "layla"), ("יעל", "yael"), ("प्रिया", "priya"), ("கவிதா", "kavitha"),
    ("สมชาย", "somchai"), ("美咲", "misaki"), ("さくら", "sakura"), ("伟", "wei"), ("지우", "jiwoo"),
    ("Amara", "amara"), ("Kwame", "kwame"), ("O'Shea", "oshea"), ("Mary Ann", "mary-ann"),
]  # fmt: skip
LAST = [
    ("Novák", "novak"), ("Müller-Lüdenscheidt", "mueller-luedenscheidt"), ("d'Arcy", "darcy"),
    ("Ødegård", "odegard"), ("García Núñez", "garcia-nunez"), ("Wiśniewska", "wisniewska"),
    ("Öztürk", "ozturk"), ("Trần", "tran"), ("Коваленко", "kovalenko"), ("Παπαδόπουλος", "papadopoulos"),
    ("გელაშვილი", "gelashvili"), ("حداد", "haddad"), ("לוי", "levi"), ("शर्मा", "sharma"), ("佐藤", "sato"),
    ("王", "wang"), ("김", "kim"), ("Okafor", "okafor"), ("Smith, Jr.", "smith-jr"),
    ("van den Berg", "vandenberg"),
]  # fmt: skip
CITIES = [
    "Wrocław",
    "Zürich",
    "São Paulo",
    "Reykjavík",
    "Київ",
    "Αθήνα",
    "تونس",
    "मुंबई",
    "京都",
    "서울",
    "Lagos",
    "Cork",
]
DOMAINS = [
    "example.com",
    "example.net",
    "example.org",
    "mail.test",
    "office.test",
    "students.test",
    "bücher.test",
]
SHARES = [30, 20, 15, 15, 10, 9, 1]
COUNT = 5_000


def main() -> None:
    dice = random.Random(2821)  # noqa: S311  nothing here is secret
    out = open(sys.stdout.fileno(), "w", encoding="utf-8", newline="", closefd=False)  # noqa: SIM115
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["email", "first_name", "last_name", "city", "loans", "token"])
    for number in range(1, COUNT + 1):
        first, first_ascii = dice.choice(FIRST)
        last, last_ascii = dice.choice(LAST)
        (domain,) = dice.choices(DOMAINS, SHARES)
        address = f"{first_ascii}{number}.{last_ascii}@{domain}"
        token = hashlib.sha256(address.encode()).hexdigest()[:16]
        rows.writerow([address, first, last, dice.choice(CITIES), dice.choice([0, 1, 1, 2, 3, 5]), token])
    out.close()


if __name__ == "__main__":
    main()
