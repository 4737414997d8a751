"""Settings that must be made before scikit-learn is imported."""

import os

# SciPy reads this at its first import. Without it scikit-learn skips its estimator
# checks of array API input, and a skipped check proves nothing.
os.environ.setdefault("SCIPY_ARRAY_API", "1")
