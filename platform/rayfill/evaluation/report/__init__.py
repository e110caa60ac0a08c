"""A comparison of runs as a page, a Markdown summary, plots and contact sheets."""
