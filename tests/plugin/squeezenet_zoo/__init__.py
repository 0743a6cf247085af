"""SqueezeNet and a data set of stripes, registered in bestiary by a package of its own."""
