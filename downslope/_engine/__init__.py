"""The engine: executors, storage of state, the manifest."""

import downslope._core  # noqa: F401  it and the executors need each other; this way round either may come first
