"""What happens around the steps of a run, one concern per file."""
