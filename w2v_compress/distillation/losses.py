"""What a student is taught, frame by frame: the terms of "Shrinking Bigfoot" (Peng et al. 2021, section 3) and more.

Every function takes student and teacher as (frames, units or channels), in any precision, computes in fp32 and gives
one value a frame, (frames,), so that the caller decides which frames count and what the sum is divided by.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError


def kl_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(teacher || student) of the CTC posteriors softened by T (section 3, after Hinton et al. 2015).

    T^2 keeps the size of the gradient as T grows.
    """
    student = F.log_softmax(student_logits.float() / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits.float() / temperature, dim=-1)
    return temperature**2 * F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cos(student, teacher): of logits, the second loss of the code released with the paper (weight 0 there)."""
    # The bound on the norms keeps the gradient of an all-zero frame within what fp16 holds.
    return 1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1, eps=1e-4)


def hidden_distance(student: Tensor, teacher: Tensor, cosine_weight: float, *, normalize: bool) -> Tensor:
    """Mean |student - teacher| over the channels + `cosine_weight` * (1 - cos), as DistilHuBERT (Chang et al. 2022,
    section 2.2) and DPHuBERT (Peng et al. 2023, section 2.2) compare hidden states.

    `normalize`: the difference is that of states brought to zero mean and unit variance. What runs through pre-norm
    layers, as LARGE's, grows with depth, in a few channels most, and its plain difference drowns all other terms.
    """
    student, teacher = student.float(), teacher.float()
    compared = [F.layer_norm(state, state.shape[-1:]) if normalize else state for state in (student, teacher)]
    distance = (compared[0] - compared[1]).abs().mean(-1)
    return distance + cosine_weight * cosine_distance(student, teacher) if cosine_weight else distance


def layer_pairs(layer_map: Sequence[str], teacher_layers: int, student_layers: int) -> list[tuple[int, int]]:
    """(teacher layer, student layer) to compare, counted from 1, from "teacher:student" strings such as "8:4".

    Without any, every student layer is paired with the teacher layer at the same share of the depth, the last with
    the last: 12 layers of 24 give 2:1, 4:2, .., 24:12. Raises `InputError` for a layer that is not there.
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
    """For each pair, student channels -> teacher channels: trained with the student and thrown away after.

    Between equal widths there is none, unless `always`; it then starts as the identity.
    """
    if student_channels == teacher_channels and not always:
        return nn.ModuleList(nn.Identity() for _ in range(pairs))
    projections = [nn.Linear(student_channels, teacher_channels) for _ in range(pairs)]
    if student_channels == teacher_channels:
        for projection in projections:
            nn.init.eye_(projection.weight)
            nn.init.zeros_(projection.bias)
    return nn.ModuleList(projections)
