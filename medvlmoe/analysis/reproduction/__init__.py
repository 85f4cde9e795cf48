"""The paper's tables beside our results: values, published anchors, paired tests, rendering."""
