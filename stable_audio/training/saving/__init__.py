"""Files that a run goes on from: written while it trains, kept whole, and read again.

folder.py            the folder of one run, with its lock.py
checkpoint_io.py     checkpoints as one file, by writer.py; shard_writing.py: in parts
checkpoint_files.py  which there are; pruning.py: which stay; room.py, checkpoint_size.py: what fits the disk
saved.py             what of the weights they hold
recovery.py          which one a run goes on from; resuming.py and continuing.py: what may have changed
"""
