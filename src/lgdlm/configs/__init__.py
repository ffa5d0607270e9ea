"""The shipped configurations: YAML on top of the schema of `lgdlm.config`."""
