"""People say which image is real: the paper's perceptual study, Table 3."""
