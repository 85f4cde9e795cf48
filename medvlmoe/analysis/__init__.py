"""Tables and reports made from run folders."""
