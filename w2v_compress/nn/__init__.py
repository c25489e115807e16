"""The wav2vec 2.0 CTC network in plain torch: compression points, training options and int8-ready modules.

The network is written once, under fairseq's parameter names. This package reads no files and imports no fairseq.
`architecture` and `compression` import no torch either.
"""
