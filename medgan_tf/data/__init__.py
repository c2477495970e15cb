"""From files of patients to batches of 256 x 256 pairs."""
