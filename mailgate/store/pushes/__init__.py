"""The rows behind pushing: what planning needs to know, and what each end of an operation writes."""
