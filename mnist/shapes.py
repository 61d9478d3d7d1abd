"""The sizes that all modules agree on. This module imports nothing, so that modules without PyTorch can use it."""

IMAGE_SIDE = 28  # pixels: height and width of an image as the networks take it
CLASSES = 10  # number of classes of every data set
