"""Reports of runs: one HTML page with metrics, findings, predictions, and the inside of the network over time."""
