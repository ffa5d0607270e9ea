"""Its commands. A door onto lgdlm: see docs/commands.md, Doors."""
