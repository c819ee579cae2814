"""What clients can ask for, one module for each kind of thing."""
