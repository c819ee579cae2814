"""Processes of one run: how they find each other, share weights and values, and stop together.

cluster.py      the processes of a launcher, as Lightning counts them
rendezvous.py   they find each other before anything is built
meeting.py      and compare what they are about to do; patience.py: no wait is for ever
heartbeat.py    one that dies is noticed; requeue.py puts the job of all back into a queue
stopping.py     signals, acted on between two steps
gathering.py    values and split weights of all processes; lockstep.py and shared_rows.py: work in turns
splitting.py    weights split over processes, by sharding.py, split_parts.py and joining.py
"""
