"""The constants that all modules share. This module imports nothing, so that modules without PyTorch can use it."""

IMAGE_SIDE = 28  # height and width of a network's input, in pixels
CLASSES = 10  # number of classes of every data set
DIGITS = tuple("0123456789")  # names of the classes of most data sets
MEAN, STD = 0.1307, 0.3081  # mean and standard deviation of the pixels of the MNIST training images, scaled to [0, 1]
