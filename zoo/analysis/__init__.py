"""Properties of a network or a data set: layers, receptive fields, gradient flow, advice."""
