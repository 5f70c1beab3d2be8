"""The long run: a target, guided by coverage, until something is found or the time is over. See CONTRIBUTING.md.

    python tests/fuzz/run.py connections corpus/connections -max_total_time=600

What follows the target is libFuzzer's. An input that fails is written to a file; with that file in place of the corpus
it is run again.
"""

import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parent.parent.parent
MAX_INPUT_BYTES = 4_096
TIMEOUT_S = 10
"""For one input: a hang."""
MEMORY_MB = 1_024
"""For the process: what a target leaves behind adds up."""


def main() -> None:
    sys.path.insert(0, str(ROOT))
    with atheris.instrument_imports(include=["protocols"]):
        from tests.fuzz.targets import TARGETS

    name = sys.argv.pop(1)
    # An input is a story, and a short one says little: let them grow soon.
    limits = [f"-max_len={MAX_INPUT_BYTES}", "-len_control=10", f"-timeout={TIMEOUT_S}", f"-rss_limit_mb={MEMORY_MB}"]
    atheris.Setup([sys.argv[0], *limits, *sys.argv[1:]], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
