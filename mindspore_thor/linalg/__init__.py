"""Tensor math on rows, patches, blocks and damped inverses; knows neither layers nor training."""
