from __future__ import annotations

# Debian 12's Python 3.11.2 cannot compile it late in a deep stack (python/cpython#106905), which
# is where pytest's plugin of hypothesis would import it first.
import hypothesis  # noqa: F401
