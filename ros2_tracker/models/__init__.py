"""The networks: one YAML a variant under variants/, one file a family."""
