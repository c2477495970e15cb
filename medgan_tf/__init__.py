"""MedGAN: medical image translation using GANs, in TensorFlow 2 and Keras 3.

Armanious et al., "MedGAN: Medical image translation using GANs",
Computerized Medical Imaging and Graphics 79 (2020), arXiv:1806.06397.
"""

__version__ = "0.1.0"
