"""What the folders of runs hold: one run on a page, several side by side, or all in a table."""
