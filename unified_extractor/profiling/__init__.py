"""The cost of a module: multiply-adds, memory and latency. Nothing is trained here."""
