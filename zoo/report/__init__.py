"""A run as one page of HTML: what it was, what happened in it and inside the network, and what that means."""
