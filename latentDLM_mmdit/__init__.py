"""MMDiT over text and latent. A door onto lgdlm: see docs/commands.md, Doors."""
