"""A page on which trainings are watched: everything in it is read from the files that runs write."""
