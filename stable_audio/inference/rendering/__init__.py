"""Render many files with `generate`: jobs, recipes, output files and an HTML page."""
