"""RWKV-7 denoisers under their old signatures."""

from lgdlm.doors.rwkv_network import BlockCausalRWKV, MultimodalRWKVDenoiser

__all__ = ["BlockCausalRWKV", "MultimodalRWKVDenoiser"]
