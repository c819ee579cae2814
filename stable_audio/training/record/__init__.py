"""What a run tells: its log, curves, sounds, and the story of its starts and ends.

run_record.py     `run.json`: every start, its end and incidents; page.py and curves.py make `run.html` of it
further_incidents.py  those of the other processes, which it takes over
start_files.py    configs, versions and log of a start, with surroundings.py and machines.py
changed_start.py  what differs from the start before
loggers/          where scalars, sounds and pictures go
lines.py          the first and last lines of a run
"""
