"""Bins of the histograms: for each sign a bin for every power of two, and one around zero."""

SMALLEST, MAGNITUDES = -24, 32  # magnitude k holds 2^(k-24) <= |x| < 2^(k-23)
BINS = 2 * MAGNITUDES + 1  # negative magnitudes, the largest first, one around zero, positive ones, the smallest first
POWERS = [2.0 ** (SMALLEST + place) for place in range(MAGNITUDES + 1)]
EDGES = [-power for power in reversed(POWERS)] + POWERS  # ascending; the outermost bins include what lies beyond
