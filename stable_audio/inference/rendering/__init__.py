"""What a render of many files needs around `generate`: jobs, recipes, files and a page."""
