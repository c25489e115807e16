"""Distillation losses: those of "Shrinking Bigfoot" (Peng et al. 2021, section 3), and distances of hidden states.

Every loss takes student and teacher as (frames, units or channels) in any precision, computes in fp32, and returns one
value per frame, (frames,). The caller selects the frames and divides their sum.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError


def kl_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return T^2 * KL(teacher || student) of the CTC posteriors at temperature T, (frames,).

    This is the loss of Peng et al. 2021, section 3. The factor T^2 makes the size of the gradient independent of T
    (Hinton et al. 2015, section 2).
    """
    student = F.log_softmax(student_logits.float() / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits.float() / temperature, dim=-1)
    return temperature**2 * F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 - cos(student, teacher), (frames,).

    For logits, this is the second loss in the code released with Peng et al. 2021, which gives it weight 0.
    """
    # With this lower bound on the norms, the gradient of an all-zero frame is finite in fp16.
    return 1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1, eps=1e-4)


def hidden_distance(student: Tensor, teacher: Tensor, cosine_weight: float, *, normalize: bool) -> Tensor:
    """Return mean |student - teacher| over the channels + `cosine_weight` * (1 - cos), (frames,).

    DistilHuBERT (Chang et al. 2022, section 2.2) and DPHuBERT (Peng et al. 2023, section 2.2) compare hidden states
    this way. With `normalize`, each frame is normalized to zero mean and unit variance before the difference: the
    residual stream of pre-norm networks, such as LARGE, grows with depth, mostly in a few channels, so the difference
    without normalization would dominate all other losses.
    """
    student, teacher = student.float(), teacher.float()
    compared = [F.layer_norm(state, state.shape[-1:]) if normalize else state for state in (student, teacher)]
    distance = (compared[0] - compared[1]).abs().mean(-1)
    return distance + cosine_weight * cosine_distance(student, teacher) if cosine_weight else distance


def layer_pairs(layer_map: Sequence[str], teacher_layers: int, student_layers: int) -> list[tuple[int, int]]:
    """Parse "teacher:student" strings, such as "8:4", as pairs (teacher layer, student layer) counted from 1.

    If `layer_map` is empty, each student layer is paired with the teacher layer at the same relative depth: 12 layers
    of 24 give 2:1, 4:2, .., 24:12. Raises `InputError` for a malformed pair or a layer that does not exist.
    """
    if not layer_map:
        return [(round(layer * teacher_layers / student_layers), layer) for layer in range(1, student_layers + 1)]
    pairs = []
    for text in layer_map:
        teacher, _, student = str(text).partition(":")
        if not (teacher.isdecimal() and student.isdecimal()):
            raise InputError(f'criterion.hidden_layers has {text!r}; it must be "teacher:student", such as "8:4"')
        pair = int(teacher), int(student)
        for name, layer, layers in zip(("teacher", "student"), pair, (teacher_layers, student_layers), strict=True):
            if not 1 <= layer <= layers:
                raise InputError(
                    f"criterion.hidden_layers has {text!r}: the {name}'s layers are 1 to {layers}, not {layer}"
                )
        pairs.append(pair)
    return pairs


def hidden_projections(pairs: int, student_channels: int, teacher_channels: int, *, always: bool) -> nn.ModuleList:
    """Create a linear map from student to teacher channels for each pair, trained with the student and then dropped.

    Equal widths need no projection: the maps are identities without parameters or, with `always`, linear maps that
    start as the identity.
    """
    if student_channels == teacher_channels and not always:
        return nn.ModuleList(nn.Identity() for _ in range(pairs))
    projections = [nn.Linear(student_channels, teacher_channels) for _ in range(pairs)]
    if student_channels == teacher_channels:
        for projection in projections:
            nn.init.eye_(projection.weight)
            nn.init.zeros_(projection.bias)
    return nn.ModuleList(projections)
