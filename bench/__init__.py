"""Programs that measure or show the whole: the demo, and the benchmarks."""
