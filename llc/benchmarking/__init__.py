"""Recorded runs of the sampler benchmark: which to repeat, and what they say together.

A *family* is what may be compared: runs of one problem (with its seed), n, β and γ. Within a family
runs that differ only in their seed are repeats of one *setting* of a sampler; what is said of a
setting rests on the spread between them, and not on the errors alone that the runs give themselves.
"""
