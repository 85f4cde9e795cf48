"""The site's own way of starting a ClientApp: the code that came with a run is neither unpacked nor imported."""
