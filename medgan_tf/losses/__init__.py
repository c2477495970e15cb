"""The loss terms of Equations 3 to 12."""
