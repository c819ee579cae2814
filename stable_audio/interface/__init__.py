"""What people and other programs use a model through: the HTTP service, and what is built on it."""
