"""Shards: prepared sessions as WebDataset tars with an index, on a folder or an S3 bucket."""
