"""``medvlmoe reproduce``: the paper's tables and figures as a grid of runs, data set x model x seed."""
