"""The benchmark: `python -m tests.bench` measures this server beside its peers, on whatever machine it is run.

- `measure`, `report`: what is measured, as figures; tables of them. Pure.
- `contenders`, `clusters`: servers that are started to be measured, alone or three: ours, and peers that are installed.
- `wrk`, `client`: load from `wrk`, and from Python where latencies of single requests count.
- `programs`, `fanout`, `publishers`: load from programs in C: readers of a feed, clients of JetStream.
- `plots`: pictures of them. Pure. `results`: the reports that the manual's plots are drawn from.
- `parts`: what is measured; a row of its table is a choice of `--parts`.

Nothing here is a test: no figure can fail. What else runs on the machine disturbs all of it, so contenders take turns,
and a ratio is that of neighbors in the same round. Ratios can be compared with those of another day, rates cannot.
"""
