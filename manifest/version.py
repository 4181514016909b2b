"""The version of this package, for its metadata and for the manifests that it writes."""

__version__ = "0.1.0"
