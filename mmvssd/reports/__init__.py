"""Pages and tables that show data sets and runs, each page a single file."""
