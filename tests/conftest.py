"""The tests import the checkout's packages, and what they share from `tests`."""

import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

# A shell starts what runs in its background with SIGINT ignored, and programs hand that on: tests of Ctrl-C
# would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)
