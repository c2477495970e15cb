"""The scripts; installed as the package `medgan_tf.tools`."""
