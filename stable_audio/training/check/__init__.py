"""What can be known of a model file and a dataset file before they are trained on."""
