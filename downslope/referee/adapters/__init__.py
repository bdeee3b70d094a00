"""Adapters: workloads out of what other libraries train with.

They live with the referee because a workload is all that they make; training with a Downslope optimizer inside those
libraries needs no adapter, since it is a `torch.optim.Optimizer`.
"""
