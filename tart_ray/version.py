"""The release of this project, which manifests and reports name."""

__version__ = "0.1.0"
