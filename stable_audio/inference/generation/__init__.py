"""Conditioning -> noise -> sampler -> audio, independent of jobs, recipes and output files."""
