"""Several machines and one order: what tests of clusters share."""
