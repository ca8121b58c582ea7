"""Data sets, one a file; splits and augmentation on whole batches."""
