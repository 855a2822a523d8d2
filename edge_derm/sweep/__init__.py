"""A grid of variants × widths × sizes × recipes × seeds, each cell an ordinary train, export, bench and evaluate."""
