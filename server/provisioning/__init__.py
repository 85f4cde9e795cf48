"""Start-up kits: all that the server and each hospital need to form a federation over the network."""
