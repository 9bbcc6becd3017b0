"""Fast implementations of the operator. Each is alone: none imports the reference or another."""
