"""From a trained generator to a translated volume."""
