"""The ServerApp: round loop, checkpoints, ledger."""
