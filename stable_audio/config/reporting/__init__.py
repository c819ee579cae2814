"""What is wrong with a file, in sentences that name the place, what stands there and what is allowed."""
