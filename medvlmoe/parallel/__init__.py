"""Several processes on one machine that compute together."""
