"""Benchmarks of the engine: step time over the byte bound, rivals, memory, start-up. Run by `make bench`."""
