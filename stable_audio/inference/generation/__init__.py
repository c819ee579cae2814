"""Conditioning -> noise -> sampler -> audio. Knows neither jobs nor recipes nor files of results."""
