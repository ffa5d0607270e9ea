"""What a data folder holds, in a few lines for people."""

from __future__ import annotations

from lgdlm.data.manifest import Manifest


def describe(manifest: Manifest) -> list[str]:
    """Lines on splits, vocabulary, latents, and everything that was dropped with its reason."""
    lines = [
        f"  {split:<11} {count['rows']:>9,} texts  {count['tokens']:>11,} tokens  {count['tokens'] / max(count['rows'], 1):.1f} a text"
        for split, count in manifest.counts.items()
    ]
    lines.append(f"  tokenizer   {manifest.tokenizer.get('kind', 'unknown')}, {manifest.vocab_size:,} ids")
    if manifest.latent_dim is None:
        lines.append("  latents     none")
    else:
        encoder = (manifest.encoder or {}).get("name", "as they were given")
        lines.append(f"  latents     {manifest.latent_dim} numbers, {encoder}{_projected(manifest)}")
    source = manifest.source or {}
    if manifest.dropped or "read" in source:
        lines.append(f"  dropped     {sum(manifest.dropped.values()):,} of {source.get('read', 0):,} texts")
        lines += [f"    {number:>9,}  {reason}" for reason, number in sorted(manifest.dropped.items(), key=lambda item: -item[1])]
    return lines


def _projected(manifest: Manifest) -> str:
    made = manifest.projection
    if made is None or made.get("kind") == "identity":
        return ""
    kept = made.get("explained_variance")
    share = f", {100 * kept:.1f} % of the variance" if isinstance(kept, float) else ""
    return f", {made.get('kind')} of {made.get('input_dim')}{share}"
