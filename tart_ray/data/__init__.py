"""Rows and where they lie: Arrow schemas, storage, readers, validation, quarantine. Knows no torch and no Ray."""
