"""Small honest experiments, one file each: a training script as a user writes it, with one thing wrong."""
