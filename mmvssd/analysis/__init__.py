"""Counts and measurements: complexity, throughput, the model zoo."""
