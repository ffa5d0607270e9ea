"""The typed configuration: one frozen dataclass a group, one line a key.

    Config = data + tokenizer + model + training + loss + optimizer + logging + sampling + evaluation + prepare + ablation

`model` has one schema a denoiser (`MODELS`): the keys they share, and each one's own. The command line composes YAML and
`key=value` words into one `Config` (`lgdlm.cli.compose`); below it nobody knows YAML, Hydra or OmegaConf, and constructors take
what they need by name. Each key carries its help text, its choices and its bounds: `lgdlm.schema` checks and prints them.
"""

from __future__ import annotations

from dataclasses import dataclass

from lgdlm.key import group, key


@dataclass(frozen=True)
class Source:
    """One of several folders that are read together."""

    path: str = key("", "a packed folder")
    weight: float = key(1.0, "its part of the training rows, in proportion to the other weights", at_least=1e-9)


@dataclass(frozen=True)
class Data:
    latent_dir: str = key("", "folder of the data: a packed folder, or train_data.json + latents/ of the per-sample layout")
    token_dir: str = key("", "folder of the per-sample tokens; empty: the packed layout in latent_dir")
    sources: list[Source] = key([], "instead of latent_dir, packed folders mixed by weight: [{path, weight}, ...]")
    max_samples: int | None = key(None, "train on the first samples only; null: all", at_least=1)
    max_val_samples: int | None = key(1000, "validate on the first samples only; null: all", at_least=1)
    bucket_rows: int = key(32, "rows of one length that stay together, so that nothing is padded", at_least=1)
    window_rows: int = key(1 << 20, "texts shuffled and bucketed at once; a longer epoch is read in windows", at_least=1)
    prefetch: int = key(0, "steps made ready in a thread while the current one is computed", at_least=0)
    verify: bool = key(True, "read packed folders completely before step 1; false: sizes and headers only, after lgdlm check")
    use_external_latents: bool = key(True, "read the data's latents; a missing one is an error")


@dataclass(frozen=True)
class Tokenizer:
    path: str | None = key(None, "folder of a tokenizer; null: the one saved with the data")


@dataclass(frozen=True)
class Model:
    """The keys every denoiser understands."""

    denoiser: str = key("transformer", "the network; chosen by model=NAME", ("transformer", "mmdit", "rwkv7"))
    hidden_size: int = key(256, "width H of the token stream", at_least=1)
    n_blocks: int = key(6, "number of blocks", at_least=1)
    n_heads: int = key(0, "attention heads; 0: hidden_size / 64", at_least=0)
    ffn_ratio: float = key(4.0, "feed-forward width / hidden_size", at_least=0.25)
    dropout: float = key(0.0, "dropout of each branch", at_least=0, at_most=0.99)
    max_seq_len: int = key(512, "longest text in tokens", at_least=1)
    embedding_dim: int = key(0, "width of the token embedding; 0: hidden_size", at_least=0)
    tie_embeddings: bool = key(True, "the vocabulary head is the token embedding")
    qk_rmsnorm: bool = key(True, "normalise queries and keys in attention")
    time_conditioning: str = key("adaln_zero", "how the two times enter a block", ("adaln_zero", "film", "add"))
    latent_dim: int = key(32, "width D of the latent", at_least=1)
    latent_len: int = key(1, "vectors L of a latent", at_least=1)
    latent_prefix_len: int = key(1, "prefix positions that carry the whole latent", at_least=1)
    latent_pred_from: str = key("both", "states that predict the latent", ("text", "prefix", "both"))
    latent_skip: str = key("none", "linear: a ridge reading of the visible tokens that the network corrects", ("none", "linear"))
    token_init: str = key("random", "encoder: token rows start from the encoder's vectors of their strings", ("random", "encoder"))
    latent_timesteps: int = key(1000, "entries of the latent schedule's table", at_least=2)
    latent_beta_schedule: str = key("cosine", "the latent's noise schedule", ("cosine", "linear", "sigmoid"))
    latent_beta_min: float = key(1e-4, "smallest beta of the linear schedule", at_least=0, at_most=1)
    latent_beta_max: float = key(0.02, "largest beta of the linear schedule", at_least=0, at_most=1)
    latent_parameterization: str = key("v_param", "what the network predicts of the latent", ("v_param", "x0", "epsilon"))
    text_process: str = key(
        "masked", "the text's noise process: masks on tokens, or Gaussian noise on their embeddings", ("masked", "embedding")
    )
    text_beta_schedule: str = key("cosine", "embedding: the text's noise schedule", ("cosine", "linear", "sigmoid"))
    self_conditioning_prob: float = key(
        0.0, "embedding: share of steps in which the network is shown its own first estimate; 0: never", at_least=0, at_most=1
    )
    t_eps: float = key(1e-4, "smallest masking probability's complement: alpha_t = 1 - (1 - t_eps) t", at_least=1e-8, at_most=0.1)
    length: str = key("predicted", "where a text ends: a length head, or its first EOS", ("predicted", "eos"))
    latent_encoder_type: str = key(
        "none", "Stage II: what reads q(z | y) from the text states", ("none", "mlp", "rwkv_pool", "transformer")
    )
    latent_encoder_start: str = key(
        "features",
        "Stage II: q's means are a map of the text states, or a correction of what the Stage I model reads from the text",
        ("features", "reading"),
    )
    latent_prior_type: str = key("fixed_gaussian", "Stage II: p(z)", ("fixed_gaussian", "learned_gaussian", "diffusion"))
    checkpoint_path: str | None = key(None, "checkpoint whose weights start the training (a warm start; resume takes everything)")

    @property
    def row_multiple(self) -> int:
        """Rows of texts that end with EOS are filled up to a multiple of this."""
        return 16


@dataclass(frozen=True)
class TransformerModel(Model):
    denoiser: str = key("transformer", "a bidirectional encoder with the same conditioning: the plain baseline", ("transformer",))


@dataclass(frozen=True)
class MMDiTModel(Model):
    denoiser: str = key("mmdit", "two streams, one joint attention", ("mmdit",))


@dataclass(frozen=True)
class RWKV7Model(Model):
    denoiser: str = key("rwkv7", "RWKV-7 blocks, one or two directions", ("rwkv7",))
    causality: str = key("bidirectional", "directions of the recurrence", ("bidirectional", "causal", "block_causal"))
    block_size: int = key(64, "block_causal: tokens of a block, read both ways; blocks are read left to right", at_least=1)
    block_context: str = key("noisy", "block_causal: earlier blocks are seen as noised, or clean (block diffusion)", ("noisy", "clean"))
    fusion: str = key("concat", "how the two directions meet", ("concat", "gated", "sum"))
    share_directions: bool = key(False, "one set of weights for both directions")
    head_size: int = key(64, "width of a head of the recurrence", at_least=1)
    kernel: str = key("auto", "WKV backend; auto: LGDLM_KERNEL, else the fastest here", ("auto", "recurrence", "chunked", "native", "fla"))
    chunk: int = key(32, "tokens a chunk of the chunked backend", at_least=1)
    rwkv_local_path: str | None = key(None, "pretrained RWKV-7 weights to start from: .pth, .safetensors, or a folder; sizes are theirs")
    rwkv_name: str | None = key(None, "the same at the Hugging Face hub or in its cache: owner/name or owner/name/file")
    rwkv_revision: str | None = key(None, "branch, tag or commit of rwkv_name")
    freeze_backbone: bool | None = key(None, "token rows and blocks of pretrained weights do not train; null: true where there are any")
    use_rwkv_lm_head: bool = key(False, "the vocabulary head starts as the pretrained one; false: a head of its own, which always trains")
    train_lm_head: bool = key(False, "a pretrained vocabulary head trains")
    backward_init: str = key("forward", "right-to-left halves beside pretrained ones: a copy of them, or fresh", ("forward", "fresh"))
    ranks: dict[str, int] = key({}, "widths of the low-rank signals w, a, v, g; {}: as published for hidden_size")
    published_ends: bool = key(False, "token rows enter unscaled, as in published weights; set by them")

    @property
    def row_multiple(self) -> int:
        """In blocks whole ones, so that no block tells by its size where its text ends."""
        return self.block_size if self.causality == "block_causal" else super().row_multiple


MODELS: dict[str, type[Model]] = {"transformer": TransformerModel, "mmdit": MMDiTModel, "rwkv7": RWKV7Model}


OBJECTIVES = ("unconditional", "stage1_coupling", "l2t", "t2l", "cycle_vae", "stage2_variational")  # `lgdlm.objectives.build`, and aliases


@dataclass(frozen=True)
class Phase:
    """One stretch of a sequential schedule: an objective for so many steps, or for so many epochs."""

    type: str = key("unconditional", "the objective", OBJECTIVES)
    steps: int | None = key(None, "its optimizer steps", at_least=1)
    epochs: int | None = key(None, "or its passes over the data", at_least=1)


@dataclass(frozen=True)
class NoiseLevel:
    """The range of random times from a step on; up to the next level it moves on a line."""

    step: int = key(0, "optimizer step, counted from 1; before the first level its range holds", at_least=0)
    low: float = key(0.0, "times lie above", at_least=0, at_most=1)
    high: float = key(1.0, "and up to", at_least=0, at_most=1)


@dataclass(frozen=True)
class Thaw:
    """Parameters that wait, and until when."""

    patterns: list[str] = key([], "regular expressions over parameter names")
    steps: int | None = key(None, "optimizer steps that they wait", at_least=1)
    epochs: int | None = key(None, "or passes over the data", at_least=1)


@dataclass(frozen=True)
class Training:
    seed: int = key(42, "the only source of randomness besides the step number", at_least=0)
    num_train_steps: int | None = key(None, "stop after so many optimizer steps", at_least=1)
    num_epochs: int | None = key(None, "stop after so many passes over the data", at_least=1)
    max_minutes: float | None = key(None, "stop after so many minutes of training; the learning rate follows the clock", at_least=0.001)
    train_batch_size: int = key(128, "rows of a micro-batch of one process", at_least=1)
    eval_batch_size: int = key(128, "rows of a validation batch", at_least=1)
    gradient_accumulation_steps: int = key(1, "micro-batches of one optimizer step", at_least=1)
    dtype: str = key("auto", "arithmetic of the network; auto: bf16 where the processor gains from it", ("auto", "bf16", "fp32"))
    compile_model: bool = key(False, "torch.compile the denoiser")
    lr_schedule: str = key("cosine", "course of the learning rate after the warm-up", ("cosine", "constant"))
    warmup_steps: int = key(200, "steps of linear warm-up", at_least=0)
    min_lr_ratio: float = key(0.1, "last learning rate / lr", at_least=0, at_most=1)
    ema_decay: float = key(0.999, "decay of the averaged weights; 0: no average", at_least=0, at_most=1)
    cfg_dropout_prob: float = key(0.1, "share of rows whose condition is noised away, for guidance", at_least=0, at_most=1)
    mode_weights: dict[str, float] = key(
        {"l2t": 1.0, "t2l": 1.0, "unconditional": 1.0, "cycle_vae": 0.0, "stage2_variational": 0.0},
        "shares of the modes of loss_type=random",
    )
    sequential_schedule: list[Phase] = key([], "phases of loss_type=sequential: [{type, steps | epochs}, ...]")
    stage_schedule: str | None = key(None, "Stage II by its name: the same as loss_type", ("stage1_coupling", "stage2_variational"))
    unfreeze_after_steps: int | None = key(
        None, "steps before the parameters of unfreeze_patterns train; null: all from the first", at_least=1
    )
    unfreeze_patterns: list[str] = key([], "regular expressions over parameter names; []: all but Stage II's own")
    unfreeze_schedule: list[Thaw] = key([], "gradual unfreezing, part by part: [{patterns, steps | epochs}, ...]")
    backbone_unfreeze_epoch: int | None = key(None, "passes over the data before the blocks between the ends train", at_least=1)
    noise_levels: list[NoiseLevel] = key([], "a curriculum over random times: [{step, low, high}, ...]; []: (0, 1] always")
    resume: str | None = key(None, "auto (newest complete checkpoint of the run) or a checkpoint folder")
    fallback: bool = key(False, "resume from the newest whole checkpoint where a newer one is damaged; --fallback says the same")
    max_skipped_steps: int = key(10, "non-finite steps in a row before training gives up", at_least=0)
    save_every_n_steps: int = key(1000, "steps between checkpoints", at_least=1)
    keep_checkpoints: int = key(3, "newest checkpoints kept", at_least=1)
    ledger: bool = key(False, "write the sample ids of every step to ledger.jsonl")
    poison_ids: str = key("", "test hook: sample ids, comma separated, whose loss becomes NaN")
    num_threads: int = key(0, "threads of the arithmetic; 0: as the environment says", at_least=0)
    nproc: int = key(1, "processes on this machine, which train together; torchrun's own number goes before", at_least=1)
    shard: bool = key(False, "FSDP2: each process keeps a part of the denoiser, for models that do not fit; false: each keeps it whole")


@dataclass(frozen=True)
class Loss:
    loss_type: str = key("random", "what is learned", (*OBJECTIVES, "random", "sequential"))
    text_weighting: str = key(
        "elbo",
        "weight of a masked token: the bound's 1/t, or uniform; of an embedding's error: uniform, or epsilon, the error of its noise",
        ("elbo", "uniform", "epsilon"),
    )
    auxiliary_ce_weight: float = key(0.0, "weight of the plain cross entropy beside the text's own loss", at_least=0)
    embedding_mse_weight: float = key(1.0, "embedding: weight of the squared error of the estimated embeddings", at_least=0)
    text_loss_weight: float = key(1.0, "weight of the text loss", at_least=0)
    latent_loss_weight: float = key(1.0, "weight of the latent loss", at_least=0)
    length_loss_weight: float = key(1.0, "weight of the length loss", at_least=0)
    l2t_text_t_mode: str = key("random", "text times of l2t: random, or always 1", ("random", "full"))
    latent_t_mode: str = key("random", "latent times of t2l: random, or always 1", ("random", "full"))
    cycle_text_weight: float = key(0.1, "weight of the text cycle y -> z' -> y", at_least=0)
    cycle_text_warmup_steps: int = key(0, "steps before the text cycle begins", at_least=0)
    cycle_text_ramp_steps: int = key(0, "steps over which its weight then rises", at_least=0)
    cycle_text_through: str = key("mean", "z' of the text cycle: the x0 prediction, or a latent sampled around it", ("mean", "sampled"))
    cycle_text_t_mode: str = key("full", "latent times of its reading: always 1, or random", ("full", "random"))
    cycle_latent_weight: float = key(0.1, "weight of the latent cycle z -> y' -> z", at_least=0)
    cycle_latent_warmup_steps: int = key(0, "steps before the latent cycle begins", at_least=0)
    cycle_latent_ramp_steps: int = key(0, "steps over which its weight then rises", at_least=0)
    cycle_latent_sampling: str = key("argmax", "how y' is taken from the decoder", ("argmax", "categorical", "gumbel_st"))
    cycle_latent_t_min: float = key(0.0, "earliest latent time of the latent cycle's reading", at_least=0, at_most=1)
    cycle_latent_t_max: float = key(0.98, "latest latent time of the latent cycle's reading", at_least=0, at_most=1)
    cycle_gumbel_temperature: float = key(1.0, "softness of gumbel_st's gradient", at_least=1e-3)
    cycle_stop_grad_latent: bool = key(True, "z' of the text cycle is data to the decoder: its loss does not reach the reading")
    cycle_update: str = key("shared", "the text cycle moves all that the decoder uses, or only what is its own", ("shared", "decoder_only"))
    cycle_every: int = key(1, "cycles are due every so many steps", at_least=1)
    cycle_prob: float = key(1.0, "and then with this probability", at_least=0, at_most=1)
    cycle_probe_every: int = key(10, "steps between measurements of the text cycle through the latent not trained; 0: never", at_least=0)
    prior_weight: float = key(0.1, "weight of prior_type", at_least=0)
    prior_type: str = key("none", "how read latents are kept like the data's", ("none", "moments", "mmd", "diffusion"))
    kl_weight: float = key(0.001, "Stage II: weight of KL(q || p) in nats a text; 1 / (tokens of a text) is the bound", at_least=0)
    kl_warmup_steps: int = key(0, "Stage II: steps over which kl_weight rises from 0", at_least=0)
    free_bits: float = key(0.0, "Stage II: nats of each latent dimension that cost nothing", at_least=0)
    geom_weight: float = key(0.0, "Stage II: weight of keeping the distances between text states in z", at_least=0)


@dataclass(frozen=True)
class Optimizer:
    name: str = key("adamw", "muon takes the block matrices, AdamW the rest", ("adamw", "muon"))
    lr: float = key(1e-3, "learning rate of AdamW", at_least=0)
    muon_lr: float = key(6e-3, "learning rate of Muon", at_least=0)
    weight_decay: float = key(0.01, "decay of matrices; never of norms, biases, embeddings", at_least=0)
    beta1: float = key(0.9, "decay of the first moment", at_least=0, at_most=0.99999)
    beta2: float = key(0.95, "decay of the second moment", at_least=0, at_most=0.99999)
    eps: float = key(1e-8, "AdamW's epsilon", at_least=0)
    grad_clip_norm: float = key(1.0, "largest gradient norm; 0: no clipping", at_least=0)
    use_fused: bool = key(True, "fused AdamW where there is one")


@dataclass(frozen=True)
class Logging:
    save_dir: str = key("outputs", "folder of runs")
    run_name: str | None = key(None, "folder of this run inside save_dir; null: named by the time")
    log_freq: int = key(10, "steps between lines on the terminal", at_least=1)
    eval_freq: int = key(500, "steps between validations", at_least=1)
    num_eval_batches: int = key(20, "batches of one validation", at_least=1)
    speed: bool = key(True, "tokens and rows per second in the log; false: equal runs have equal logs")
    tensorboard: bool = key(False, "write TensorBoard events as well")
    wandb_project: str | None = key(None, "send metrics to this W&B project as well")


@dataclass(frozen=True)
class Sampling:
    mode: str = key("l2t", "what is given and what is drawn", ("l2t", "t2l", "joint", "infill", "edit", "interpolate", "prior", "encode"))
    checkpoint: str | None = key(None, "checkpoint folder, or a run's folder for its latest")
    input: str | None = key(None, "latents: a .npy file, a folder of <id>.npy, or JSONL with id and latent, as t2l writes it")
    project: bool | None = key(
        None, "true: the latents are the encoder's own, project them as the training data was; false: the model's; null: their width says"
    )
    prompts: str | None = key(None, "texts: JSONL with id and text, one text a line (.txt), or - for stdin; l2t: instead of input")
    prompt: str | None = key(None, "one text, instead of prompts")
    limit: int | None = key(None, "take the first latents or prompts only; null: all", at_least=1)
    max_tokens: int | None = key(None, "refuse longer prompts; null: what the model has room for", at_least=1)
    out: str | None = key(None, "JSONL file to write; null: stdout")
    num_steps: int = key(32, "steps of the reverse process", at_least=1)
    seq_len: int | None = key(None, "tokens of each text; null: the model says (length=eos: room for max_seq_len)", at_least=1)
    temperature: float = key(1.0, "of the token draws; 0: the likeliest", at_least=0)
    top_k: int = key(0, "draw among the k likeliest tokens; 0: all", at_least=0)
    top_p: float = key(1.0, "draw among the likeliest tokens of this total probability", at_least=0, at_most=1)
    guidance_scale: float = key(1.0, "classifier-free guidance; 1: none", at_least=0)
    order: str = key("ancestral", "which masks are revealed first", ("ancestral", "confidence", "entropy"))
    rounding: str = key(
        "logits",
        "embedding: tokens from the last logits, nearest to the last estimate, or nearest at every step",
        ("logits", "nearest", "every_step"),
    )
    text_sampler: str = key("ddim", "embedding: reverse step of the text", ("ddim", "ddpm", "dpmpp"))
    remask: float = key(0.0, "strength at which revealed tokens may be masked again; 0: never", at_least=0, at_most=1)
    share: float = key(0.5, "edit: share of the tokens drawn anew", at_least=0, at_most=1)
    latent_sampler: str = key("ddim", "reverse step of the latent", ("ddim", "ddpm", "dpmpp"))
    average: int = key(1, "t2l: draws averaged; 0: the point estimate, one step from pure noise", at_least=0)
    seed: int = key(42, "of the draws; each sample's are its own, whatever the batch", at_least=0)
    batch_size: int = key(64, "samples drawn together", at_least=1)
    exact: bool = key(False, "draw each sample alone: the same bits whatever stands beside it, where a batch is equal to rounding; slower")
    best_of: int = key(1, "draws a sample, the best by the model's own t2l kept", at_least=1)
    rounds: int = key(0, "rounds of edits of that sample, kept where the model's own t2l prefers them", at_least=0)
    num_samples: int = key(8, "samples of joint and prior, points of interpolate", at_least=1)
    use_ema: bool = key(True, "sample from the averaged weights")
    fallback: bool = key(False, "where the checkpoint is damaged: take the newest older one that is whole (--fallback)")


@dataclass(frozen=True)
class Evaluation:
    checkpoint: str | None = key(None, "checkpoint folder, or a run's folder for its latest")
    out: str | None = key(None, "JSON file of the results, or an existing folder for it; null: beside the checkpoint")
    num_samples: int = key(500, "held-out texts, chosen by hash", at_least=1)
    num_steps: int = key(32, "steps of each reverse process", at_least=1)
    guidance_scale: float = key(2.0, "guidance of the generated texts", at_least=0)
    seed: int = key(42, "of draws and resampling", at_least=0)
    bootstrap: int = key(1000, "resamples of the confidence intervals; 0: none", at_least=0)
    temperature: float = key(0.5, "of the token draws of generated texts; 0: the likeliest", at_least=0)
    order: str = key("ancestral", "which masks are revealed first", ("ancestral", "confidence", "entropy"))
    best_of: int = key(1, "draws a generated text, the best by the model's own t2l kept", at_least=1)
    rounds: int = key(0, "rounds of edits of that text, kept where the model's own t2l prefers them", at_least=0)
    likelihood_draws: int = key(16, "maskings a text of the likelihood's estimate", at_least=1)
    latent_steps: int = key(20, "steps of each latent's reverse process", at_least=1)
    encoder: str | None = key(None, "encoder that judges generated texts; null: the one that made the latents")
    judge: bool = key(True, "perplexity of generated texts under a small language model, where its package is installed")
    dtype: str = key("auto", "arithmetic of generated texts and latents; auto: bf16 where it is faster", ("auto", "bf16", "fp32"))
    fallback: bool = key(False, "where the checkpoint is damaged: take the newest older one that is whole (--fallback)")
    checklist: str | None = key(None, "Markdown file of boxes to prove on this checkpoint; a ticked copy is written into the run")


@dataclass(frozen=True)
class Prepare:
    source: str = key("wordnet", "where texts come from", ("wordnet", "wiki", "bible", "file"))
    input: str | None = key(None, "your JSONL, JSON, TXT or Parquet file, or saved Hugging Face dataset (source=file)")
    out: str = key("data/wordnet", "folder to write")
    text_field: str | None = key(None, "field of your entries that holds the text; null: text")
    id_field: str | None = key(None, "field of your entries that holds the id; null: id, where there is one")
    split: str | None = key(None, "split of a saved Hugging Face dataset that has several")
    language: str | None = key(None, "of source=wiki; null: en-us", ("en-us", "fr-fr", "es-es"))
    kinds: list[str] = key([], "texts of a packaged source, such as [definition, example]; empty: its default")
    validation_kinds: list[str] = key([], "kinds that may be held out; empty: all, for wordnet its definitions")
    tokenizer: str = key("rwkv_compact", "rwkv, rwkv_compact, byte, or the folder of a Hugging Face tokenizer or of a saved one of ours")
    vocab_size: int = key(8192, "ids of the compact vocabulary", at_least=257)
    encoder: str = key("minilm", "minilm (packaged), the folder of a model, or none with given latents")
    family: str = key("auto", "prefix, pooling and normalisation of the encoder; auto: read from the model's folder")
    encoder_role: str | None = key(None, "query or passage: which of the family's prompts; null: its default")
    encoder_instruction: str | None = key(None, "what the vectors are for, where the role's prompt asks for it")
    encoder_language: str | None = key(None, "of the texts, for encoders that want to know, such as eng_Latn")
    encoder_dtype: str = key("auto", "arithmetic of the encoder; auto: bfloat16 where it is faster", ("auto", "float32", "bfloat16"))
    projection: str = key(
        "auto",
        "to latent_dim: pca, matryoshka, identity, or a saved one's folder; auto: pca, given latents of that width as they are",
    )
    latent_dim: int | None = key(32, "width D of the stored latents; null: that of the encoder or of the latents given", at_least=1)
    latents: str | None = key(None, ".npy of one latent a text, instead of an encoder")
    min_tokens: int = key(1, "shorter texts are left out, and counted", at_least=1)
    max_tokens: int = key(512, "longer texts are left out, and counted", at_least=1)
    validation: float = key(0.02, "texts held out, chosen by content hash: a share (< 1) or a number (>= 1)", at_least=0)
    seed: int = key(42, "of the split", at_least=0)
    limit: int | None = key(None, "a seeded sample of so many texts", at_least=1)
    layout: str = key(
        "packed",
        "shards with a manifest, or one file a sample; convert also: RWKV-7 weights as published, for Hugging Face, or as a new run",
        ("packed", "samples", "rwkv", "hf", "run"),
    )
    weights_dtype: str = key("keep", "convert to rwkv or hf: numbers of the weights; keep: as they are", ("keep", "fp32", "bf16", "fp16"))
    engine: str = key("local", "who tokenizes and encodes: processes of this machine, or a Ray cluster", ("local", "ray"))
    num_workers: int = key(1, "how many at once; the folder that is written does not depend on it", at_least=1)
    overwrite: bool = key(False, "replace what the folder holds")


@dataclass(frozen=True)
class Ablation:
    matrix: str | None = key(None, "a shipped matrix, or a .yaml file of yours")
    scale: str = key("small", "how much each run does: small (minutes on two cores), demo, full, or a scale of the matrix's own")
    seeds: list[int] = key([1, 2, 3], "training.seed of each variant's runs")
    out: str | None = key(None, "folder of the runs; null: outputs/ablations/MATRIX_SCALE")
    docs: str | None = key(None, "Markdown file that the table is also written to, with its plots beside it")
    dry_run: bool = key(False, "print the plan and the time it would take, and run nothing")
    retry_failed: bool = key(False, "run again what failed before")


@dataclass(frozen=True)
class Config:
    data: Data = group(Data)
    tokenizer: Tokenizer = group(Tokenizer)
    model: Model = group(TransformerModel)
    training: Training = group(Training)
    loss: Loss = group(Loss)
    optimizer: Optimizer = group(Optimizer)
    logging: Logging = group(Logging)
    sampling: Sampling = group(Sampling)
    evaluation: Evaluation = group(Evaluation)
    prepare: Prepare = group(Prepare)
    ablation: Ablation = group(Ablation)
