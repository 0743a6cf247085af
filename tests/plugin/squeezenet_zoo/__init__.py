"""SqueezeNet, data sets of stripes and of bright rectangles, and a task of its own, registered in bestiary by a package."""
