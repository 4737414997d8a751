"""Settings that must be made before scikit-learn is imported."""

import os
import signal

# SciPy reads this at its first import. Without it scikit-learn skips its estimator
# checks of array API input, and a skipped check proves nothing.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

# A shell's background jobs ignore Ctrl-C; tests of interrupts would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
