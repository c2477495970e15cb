"""The three networks: CasNet, the patch discriminator and VGG-19."""
