"""How fast the operator is beside what a user would otherwise run."""
