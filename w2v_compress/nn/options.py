"""Settings of a network that matter in training only."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What is at work only in training; the names and places are fairseq's."""

    dropout: float = 0.0
    """After attention, after the feed-forward block, and on the input of the layers."""
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    dropout_input: float = 0.0
    final_dropout: float = 0.0
    layerdrop: float = 0.0
    """Probability of skipping a layer (Fan et al. 2019)."""
    layerdrop_by_seed: bool = False
    """Which layers are skipped depends on torch's seed alone and not on the state of its generator: for trainers that
    set the seed anew for each update, as fairseq does. Processes whose batches differ then skip the same layers."""
    feature_grad_mult: float = 1.0
    """Factor on the gradient that reaches the feature extractor; 0 freezes it."""
    checkpoint_activations: bool = False
    """Compute the layers again in the backward pass rather than keep what is inside: less memory, more time."""
