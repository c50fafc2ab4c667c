"""What is counted and measured: complexity, throughput, the model zoo."""
