"""One target in this process: `python -m scripts.fuzzing.inside TARGET [libFuzzer options] [corpus...]`.

Only our own code is instrumented: libraries have fuzzers of their own.
"""

import sys

import atheris

with atheris.instrument_imports(include=["evenpost", "worker", "client", "broker"]):
    from scripts.fuzzing.targets import TARGETS

if __name__ == "__main__":
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()
