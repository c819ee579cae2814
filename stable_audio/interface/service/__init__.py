"""`stable-audio serve`: an HTTP API that generates with the models of a machine.

The process that answers requests never computes: each device has a process of its own (`worker`), which loads
the models and renders batches, and one more process decodes what clients upload. `service` holds the jobs
and passes them on, `store` keeps them on disk, `routes` is what clients see.
"""
