"""The documents: manifests, reports, rules and lineage."""
