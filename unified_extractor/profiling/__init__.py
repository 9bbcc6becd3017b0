"""What a module costs: multiply-adds, memory, latency. Counts; never trains."""
