"""HTTP server and web page for a trained classifier."""
