"""Stock fairseq in fp32: `wav2vec_ctc`, loaded with fairseq's own functions, patched only for current torch."""

from collections.abc import Sequence

from . import Logits, Run, Setting, Waveform, pad, trim, valid_samples

FILE = "fairseq.pt"


def convert(setting: Setting) -> None:
    """Write a fairseq checkpoint of the network at (1, 1, 1), and its dictionary."""
    from dataclasses import replace

    from ...interop.fairseq_checkpoint import write_checkpoint
    from ...model_file.header import Header
    from ...model_file.storage import ModelFile, read_model

    model = read_model(setting.model)
    architecture = replace(model.header.architecture, learned_upsampling=())
    header = Header(architecture=architecture, units=model.header.units, normalize=model.header.normalize)
    state = {name: tensor for name, tensor in model.state.items() if ".upsampling." not in name}
    write_checkpoint(setting.folder / FILE, ModelFile(header, state))
    model.header.units.write_dictionary(setting.folder / "dict.ltr.txt")


def load(setting: Setting) -> Run:
    """Load the checkpoint with `load_model_ensemble_and_task`; the model runs in fp32 with a padding mask."""
    import torch

    from ...compat import apply

    apply()
    from fairseq import checkpoint_utils

    torch.set_num_threads(setting.threads)
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task(
        [str(setting.folder / FILE)], arg_overrides={"data": str(setting.folder)}
    )
    model.eval()

    @torch.inference_mode()
    def run(waveforms: Sequence[Waveform]) -> list[Logits]:
        audio, lengths = pad(waveforms)
        padding = torch.from_numpy(valid_samples(lengths, audio.shape[1]) == 0)
        output = model(source=torch.from_numpy(audio), padding_mask=padding if padding.any() else None)
        logits = model.get_logits(output).transpose(0, 1)  # (batch, frames, units)
        padding = output["padding_mask"]
        frames = [logits.shape[1]] * len(logits) if padding is None else (~padding).sum(1).tolist()
        return trim(logits.numpy(), frames)

    return run
