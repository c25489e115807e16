"""Regularization and memory settings that affect a network in training only."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Settings that change the network's computation in training only; names and positions are fairseq's."""

    dropout: float = 0.0
    """Dropout probability after attention, after the feed-forward block, and on the input of the first layer."""
    attention_dropout: float = 0.0
    """Dropout probability of the attention weights."""
    activation_dropout: float = 0.0
    """Dropout probability after the activation of the feed-forward block."""
    dropout_input: float = 0.0
    """Dropout probability of the projected features, before masking."""
    final_dropout: float = 0.0
    """Dropout probability of the encoder output, before the CTC head."""
    layerdrop: float = 0.0
    """Probability of skipping a layer (LayerDrop, Fan et al. 2019)."""
    layerdrop_by_seed: bool = False
    """Choose the skipped layers by torch's seed alone, not by the state of its generator. For trainers that set a new
    seed for each update, as fairseq does: processes with different batches then skip the same layers."""
    feature_grad_mult: float = 1.0
    """Factor on the gradient of the feature extractor's output; 0 freezes the feature extractor."""
    checkpoint_activations: bool = False
    """Recompute the activations inside each layer in the backward pass, which takes less memory and more time."""
