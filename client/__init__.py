"""The ClientApp: one hospital site."""
